"""The transforms against short oracles, on shuffled rows. Those of sessionizing are plain Arrow and need no Spark."""

from __future__ import annotations

import hmac
import json
import random
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mealrec.config import SessionizeConfig
from mealrec.schema import EVENT_REASONS
from spark_jobs import outcome, sessionize
from spark_jobs.records import Columns, records
from spark_jobs.sessionize import ORDER, label
from spark_jobs.units import parts_of
from spark_jobs.validate import Rules, day_number, judge
from tests.spark_jobs import logs as generated

CONFIG = SessionizeConfig(earliest="2026-01-01", latest="2026-02-01", gap_minutes=30)
BASE = 1_767_600_000_000
MINUTE = 60_000


def event(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "event_id": f"e{number}",
        "user_id": "u1",
        "video_id": "v1",
        "event_type": "view",
        "timestamp": BASE + number * MINUTE,
        "watch_ms": 900,
        "duration_ms": 1000,
        "device": "web",
    }
    return {k: v for k, v in (row | changes).items() if v is not ...}


@pytest.fixture(autouse=True)
def cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is gone through by itself, so that a viewer's days and sessions reach over their ends."""
    monkeypatch.setattr(sessionize, "AT_ONCE", 1)


def judged(
    folder: Path,
    lines: list[str],
    files: int = 2,
    videos: tuple[str, ...] = ("v1", "v2"),
    config: SessionizeConfig = CONFIG,
    **rules: Any,
) -> tuple[pa.Table, list[str]]:
    """Lines dealt to files, read and judged: JUDGED rows, and the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(files):
        path = folder / f"events-2026-01-{n + 5:02d}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines[n::files]), errors="surrogateescape")
        paths.append(str(path))
    days = [day_number(f"2026-01-{n + 5:02d}") for n in range(files)]
    made = Rules(config, frozenset(videos), days, **rules)
    batches = [
        judge(batch, part.file, made)
        for part in parts_of(paths, range(files), lambda parts: [])
        for batch in records(part, Columns({}), config.max_line_bytes)
    ]
    return pa.Table.from_batches(batches), [Path(p).name for p in paths]


def labelled(table: pa.Table, config: SessionizeConfig = CONFIG, batch: int = 7) -> pa.Table:
    """As the shuffle brings them: sorted, in batches that are cut anywhere."""
    ordered = table.sort_by([(name, "ascending") for name in ORDER]).combine_chunks()
    return pa.concat_tables(list(label(ordered.to_batches(max_chunksize=batch), config)))


def outcomes(
    folder: Path, lines: list[str], files: int = 2, config: SessionizeConfig = CONFIG, **more: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `interactions` and of `quarantine`."""
    table, names = judged(folder, lines, files, config=config, **more)
    rows = labelled(table, config)
    bad = rows["reason"].combine_chunks().is_valid()
    good = outcome.interactions(rows.filter(pa.compute.invert(bad)).combine_chunks(), config)
    return good.to_pylist(), outcome.rejects(rows.filter(bad), names).to_pylist()


BAD = {
    "unparseable": ['{"event_id": "x", "user', "not json", "[1, 2]", '"text"', '{"event_id": "\udcff"}'],
    "missing_key": [
        json.dumps(event(1, user_id=...)),
        json.dumps(event(2, video_id="")),
        json.dumps(event(3, timestamp=None)),
    ],
    "bad_type": [
        json.dumps(event(4, watch_ms="soon")),
        json.dumps(event(5, timestamp="2026-01-07 10:00:00")),
        json.dumps(event(6, user_id={"name": "x"})),
        json.dumps(event(7, timestamp="yesterday")),
    ],
    "impossible_time": [json.dumps(event(8, timestamp=86_400_000))],
    "oversize_field": [json.dumps(event(30, device="d" * 1025)), json.dumps(event(31, pad="x" * 2**20))],
    "too_late": [json.dumps(event(32, timestamp="2026-01-02T23:59:59.999Z"))],
    "future": [
        json.dumps(event(9, timestamp=BASE + 400 * 86_400_000)),
        json.dumps(event(33, timestamp="2026-01-09T00:00:00Z")),
    ],
    "negative_watch": [json.dumps(event(10, watch_ms=-1))],
    "watch_too_long": [json.dumps(event(11, watch_ms=50_000))],
    "bad_duration": [json.dumps(event(12, duration_ms=0)), json.dumps(event(13, duration_ms=-5))],
    "unknown_event_type": [json.dumps(event(14, event_type="teleport")), json.dumps(event(15, event_type=None))],
    "unknown_video": [json.dumps(event(16, video_id="v404"))],
    "duplicate_event": [json.dumps(event(100, timestamp=BASE + 900 * MINUTE))],
    "duplicate_content": [json.dumps(event(100, event_id="f100"))],
    "bot_like_rate": [json.dumps(event(200 + n, user_id="machine", timestamp=BASE + n)) for n in range(31)],
}
GOOD = [
    json.dumps(event(100)),
    json.dumps(event(101, timestamp="2026-01-07T10:00:00Z")),
    json.dumps(event(102, timestamp="2026-01-07T10:00:00.250+01:00")),
    json.dumps(event(103, watch_ms=None, duration_ms=None, event_type="like", extra="ignored", device=...)),
    json.dumps(event(104, timestamp=str(BASE))),
]


STRICT = CONFIG.model_copy(update={"late_days": 2, "clock_skew_minutes": 2880, "bot_events_a_minute": 30})


def test_every_reason_is_given_to_what_deserves_it_and_nothing_is_lost(tmp_path: Path) -> None:
    assert set(BAD) == set(EVENT_REASONS)
    lines = GOOD + [line for bad in BAD.values() for line in bad]
    random.Random(1).shuffle(lines)
    good, bad = outcomes(tmp_path, [*lines, "", "   "], config=STRICT)
    lines = [line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for line in lines]
    assert Counter(r["reason"] for r in bad) == Counter({reason: len(rows) for reason, rows in BAD.items()})
    assert {r["event_id"] for r in good} == {"e100", "e101", "e102", "e103", "e104"}
    kept = {r["payload"]: r for r in bad}
    assert {p[: 2**20] for p in set(lines) - set(GOOD)} == set(kept)
    one = kept[BAD["watch_too_long"][0]]
    assert one["key"] == "e11" and "watch_ms is 50000" in one["detail"]
    assert kept[BAD["unknown_video"][0]]["key"] == "v404"
    file = tmp_path / one["source_file"]
    assert file.read_text(errors="replace").splitlines()[one["line"] - 1] == one["payload"]


def test_the_first_reason_in_the_list_is_the_one_that_is_given(tmp_path: Path) -> None:
    wrong = {"event_type": "teleport", "video_id": "v404", "duration_ms": -1, "watch_ms": -1}
    cases = [
        ("unknown_event_type", event(1, event_type="teleport", video_id="v404")),
        ("bad_duration", event(2, event_type="teleport", duration_ms=-1)),
        ("negative_watch", event(3, **wrong)),
        ("impossible_time", event(4, **wrong, timestamp=1)),
        ("bad_type", event(5, **wrong | {"watch_ms": "soon"}, timestamp=1)),
        ("missing_key", event(6, **wrong | {"watch_ms": "soon"}, user_id=None)),
        ("oversize_field", event(7, **wrong, user_id=None, device="d" * 2000)),
    ]
    _, bad = outcomes(tmp_path, [json.dumps(row) for _, row in cases])
    assert [r["reason"] for r in sorted(bad, key=lambda r: json.loads(r["payload"])["event_id"])] == [
        r for r, _ in cases
    ]


def test_an_event_may_be_as_late_and_as_early_as_its_file_allows_and_no_more(tmp_path: Path) -> None:
    """The file is of 2026-01-05, two days late and two early are allowed."""
    edges = ["2026-01-02T23:59:59.999Z", "2026-01-03T00:00:00Z", "2026-01-07T23:59:59.999Z", "2026-01-08T00:00:00Z"]
    lines = [json.dumps(event(n, timestamp=text)) for n, text in enumerate(edges)]
    good, bad = outcomes(tmp_path, lines, files=1, config=STRICT)
    assert {r["event_id"] for r in good} == {"e1", "e2"}
    assert {r["key"]: r["reason"] for r in bad} == {"e0": "too_late", "e3": "future"}
    # a time that is not believed opens no day: a night would make it anew
    days = {r["event_id"]: r["day"] for r in judged(tmp_path, lines, files=1, config=STRICT)[0].to_pylist()}
    assert days == {"e0": None, "e1": day_number("2026-01-03"), "e2": day_number("2026-01-07"), "e3": None}


def test_times_in_all_legal_forms_become_utc_milliseconds(tmp_path: Path) -> None:
    found = {r["event_id"]: r["timestamp_ms"] for r in outcomes(tmp_path, GOOD)[0]}
    assert found["e100"] == BASE + 100 * MINUTE
    assert found["e101"] == 1_767_780_000_000
    assert found["e102"] == 1_767_776_400_250
    assert found["e104"] == BASE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),  # a leap day
        ("2023-02-29T00:00:00Z", None),
        ("2026-03-29T02:30:00+01:00", 1_774_747_800_000),  # an hour that clocks in Berlin skip
        ("2026-10-25T02:30:00+02:00", 1_792_888_200_000),  # the hour that they show twice
        ("2026-10-25T02:30:00+01:00", 1_792_891_800_000),
        ("2026-01-07T24:00:00Z", None),
        ("2026-01-07T10:00:00", None),  # whose ten o'clock?
        ("1e12", 1_000_000_000_000),
        ("1767600000000.9", 1_767_600_000_000),
        ("99999999999999999999", None),
        ("-1", -1),
        ("0x10", None),
    ],
)
def test_a_clock_is_read_in_utc_or_not_at_all(text: str, expected: int | None) -> None:
    from spark_jobs.values import clock

    values, wrong = clock(pa.array([text, "1", None]), "ms")
    assert values.to_pylist() == [expected, 1, None]
    assert (wrong is not None and wrong.to_pylist() == [True, False, False]) == (expected is None)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1_709_251_199_999_999], pa.timestamp("us", "UTC")), 1_709_251_199_999),
        (pa.array([-1], pa.timestamp("us", "Europe/Berlin")), -1),  # a zone is how it is shown, not when it is
        (pa.array([1_792_891_800_000], pa.timestamp("ms", "Europe/Berlin")), 1_792_891_800_000),  # shown twice
        (pa.array([1_709_251_199], pa.timestamp("s", "UTC")), 1_709_251_199_000),
        (pa.array([1_709_251_199_999], pa.timestamp("ms")), None),  # whose clock?
        (pa.array([1_709_251_199_999.9]), 1_709_251_199_999),
        (pa.array([True]), None),
    ],
)
def test_a_column_of_timestamps_is_read_in_utc_or_not_at_all(column: pa.Array, expected: int | None) -> None:
    from spark_jobs.values import clock

    values, wrong = clock(column, "ms")
    assert values.to_pylist() == [expected] and (wrong is not None and wrong.to_pylist() == [True]) == (
        expected is None
    )


@pytest.mark.parametrize(
    ("shown", "zone", "expected"),
    [
        ("2026-01-05 10:00:00", "Europe/Berlin", "2026-01-05T09:00Z"),
        ("2026-07-05T10:00:00.123999", "Europe/Berlin", "2026-07-05T08:00:00.123Z"),
        ("2026-10-25 01:59:59", "Europe/Berlin", "2026-10-24T23:59:59Z"),
        ("2026-10-25 02:30:00", "Europe/Berlin", "2026-10-25T00:30Z"),  # shown twice: the first
        ("2026-10-25 03:00:00", "Europe/Berlin", "2026-10-25T02:00Z"),
        ("2026-03-29 01:59:59.999", "Europe/Berlin", "2026-03-29T00:59:59.999Z"),
        ("2026-03-29 02:00:00", "Europe/Berlin", None),  # skipped
        ("2026-03-29 02:59:59.999", "Europe/Berlin", None),
        ("2026-03-29 03:00:00", "Europe/Berlin", "2026-03-29T01:00Z"),
        ("2026-11-01 01:30:00", "America/New_York", "2026-11-01T05:30Z"),
        ("2026-01-05 10:00:00", "Asia/Kolkata", "2026-01-05T04:30Z"),
        ("1969-12-31 23:59:59.9999", "UTC", "1969-12-31T23:59:59.999Z"),
        ("2026-01-05 10:00:00", None, None),
    ],
)
def test_a_time_without_a_zone_is_of_the_zone_that_the_settings_name(
    shown: str, zone: str | None, expected: str | None
) -> None:
    """In a column of timestamps and in text the same; what names its zone itself needs none."""
    from spark_jobs.values import clock

    ms = None if expected is None else round(datetime.fromisoformat(expected).timestamp() * 1000)
    for column in (
        pa.array([datetime.fromisoformat(shown), None], pa.timestamp("us")),
        pa.array([shown, None, "2026-01-05T10:00:00+02:00", "1767600000000"]),
    ):
        values, wrong = clock(column, "ms", zone)
        assert values.to_pylist()[:2] == [ms, None], column.type
        assert values.to_pylist()[2:] == [1_767_600_000_000] * (len(column) - 2)
        assert (wrong is not None and wrong.to_pylist() == [True] + [False] * (len(column) - 1)) == (ms is None)


def test_events_without_an_id_get_one_from_what_they_say(tmp_path: Path) -> None:
    """The same event twice is a copy; another viewer, video, event type or time is another event."""
    one = event(1, event_id=...)
    others = [
        one | change for change in ({"user_id": "u2"}, {"video_id": "v2"}, {"event_type": "like"}, {"timestamp": BASE})
    ]
    lines = [json.dumps(row) for row in (one, one | {"device": "tv"}, *others)]
    good, bad = outcomes(tmp_path, lines, from_content=True)
    again, _ = outcomes(tmp_path / "again", lines[::-1], files=1, from_content=True)
    assert len({r["event_id"] for r in good}) == len(good) == 5
    assert [r["reason"] for r in bad] == ["duplicate_event"]
    assert {r["event_id"] for r in again} == {r["event_id"] for r in good}
    assert {r["reason"] for r in outcomes(tmp_path / "without", lines)[1]} == {"missing_key"}


def test_an_empty_log_day_is_no_reason_to_stop(tmp_path: Path) -> None:
    good, bad = outcomes(tmp_path, GOOD[:1], files=3)
    assert len(good) == 1 and bad == []


def test_hashed_viewers_leave_no_name_behind(tmp_path: Path) -> None:
    lines = [json.dumps(event(n, user_id="alice")) for n in range(3)] + [json.dumps(event(0, user_id="alice"))]
    lines += [json.dumps(event(9, user_id="alice", watch_ms=-1)), '{"user_id": "alice", "broken']
    good, bad = outcomes(tmp_path, lines, key=b"a key of some length")
    expected = hmac.new(b"a key of some length", b"alice", "sha256").hexdigest()[:32]
    assert {r["user_id"] for r in good} == {expected} and len(bad) == 3
    assert "alice" not in json.dumps([good, bad])
    other, _ = outcomes(tmp_path, lines, key=b"another key of ours")
    assert {r["user_id"] for r in other}.isdisjoint(r["user_id"] for r in good)


@pytest.mark.parametrize("key", [None, b"a key of some length"])
def test_a_viewer_without_an_id_is_none_also_when_ids_are_hashed(tmp_path: Path, key: bytes | None) -> None:
    long = "u" * (CONFIG.max_field_bytes + 1)
    lines = [json.dumps(event(n, user_id=user)) for n, user in enumerate(("", " ", None, long))]
    good, bad = outcomes(tmp_path, lines, key=key)
    said = sorted((r["key"], r["reason"], r["detail"]) for r in bad)
    assert good == [] and said == [
        *((f"e{n}", "missing_key", "absent or empty: user_id") for n in range(3)),
        ("e3", "oversize_field", f"longer than {CONFIG.max_field_bytes} bytes: user_id"),
    ]
    assert key is None or long not in json.dumps(bad)


def random_log(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    times = [BASE + draw.choice([0, 1, 29, 30, 31, 100]) * MINUTE * n // 3 for n in range(80)]
    # a video of its own each: at equal times nothing is a copy of another
    rows = [event(n, user_id=f"u{draw.randint(1, 5)}", video_id=f"v{n}", timestamp=at) for n, at in enumerate(times)]
    draw.shuffle(rows)
    return rows


def sessions(folder: Path, rows: list[dict[str, Any]], files: int = 2, batch: int = 7) -> dict[str, Any]:
    table, _ = judged(folder, [json.dumps(r) for r in rows], files, videos=tuple(f"v{n}" for n in range(100)))
    made = labelled(table, CONFIG, batch)
    assert made["reason"].null_count == len(made), made["detail"].drop_null()
    return {r["event_id"]: r for r in outcome.interactions(made.combine_chunks(), CONFIG).to_pylist()}


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=generated.logs(viewers=5, files=3), batch=st.integers(1, 9))
def test_whatever_a_log_holds_its_rows_become_what_twenty_lines_of_python_say(
    tmp_path_factory: pytest.TempPathFactory, files: generated.Files, batch: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    config = CONFIG.model_copy(update={"bot_events_a_minute": None})
    lines = [[json.dumps(row) for row in rows] for rows in files]
    longest = max(map(len, lines))
    if not longest:
        return
    # judged() deals lines in turn: blank ones keep each in its file
    dealt = [own[n] if n < len(own) else "" for n in range(longest) for own in lines]
    table, names = judged(folder, dealt, files=3, videos=generated.VIDEOS, config=config)
    rows = labelled(table, config, batch)
    bad = rows["reason"].combine_chunks().is_valid()
    kept = outcome.interactions(rows.filter(pa.compute.invert(bad)).combine_chunks(), config).to_pylist()
    good, rejected = generated.oracle(files)
    assert generated.found_good(kept) == good
    assert generated.found_bad(outcome.rejects(rows.filter(bad), names).to_pylist(), json.loads) == rejected
    for row in kept:
        assert row["session_id"] == sessionize.session_id(row["user_id"], row["session_start_ms"])


def test_a_session_goes_on_over_midnight_and_over_the_end_of_a_batch(tmp_path: Path) -> None:
    night = 1_767_654_000_000  # 2026-01-05T23:00:00Z
    rows = [event(n, video_id=f"v{n}", timestamp=night + n * 10 * MINUTE) for n in range(13)]
    found = sessions(tmp_path, rows, batch=2)
    assert [(found[f"e{n}"]["session_start_ms"], found[f"e{n}"]["session_position"]) for n in range(13)] == [
        (night, n) for n in range(13)
    ]


def test_session_ids_do_not_depend_on_order_files_or_other_viewers(tmp_path: Path) -> None:
    rows = random_log(3)
    first = sessions(tmp_path / "a", rows)
    again = sessions(tmp_path / "b", rows[::-1], files=3, batch=2)
    alone = sessions(tmp_path / "c", [r for r in rows if r["user_id"] == "u1"], files=1)
    ids = {k: (r["session_id"], r["session_position"]) for k, r in first.items()}
    assert ids == {k: (r["session_id"], r["session_position"]) for k, r in again.items()}
    assert all(ids[k] == (r["session_id"], r["session_position"]) for k, r in alone.items())
    starts = {(r["user_id"], r["session_start_ms"]) for r in first.values()}
    assert len(starts) == len({r["session_id"] for r in first.values()}), "an id a viewer and a start"
    assert len(starts) > len({user for user, _ in starts}) and len(starts) > len({start for _, start in starts})


def test_positive_is_a_long_view_or_a_positive_event(tmp_path: Path) -> None:
    rows = [
        event(1, watch_ms=300),
        event(2, watch_ms=299),
        event(3, event_type="like", watch_ms=None, duration_ms=None),
        event(4, event_type="comment", watch_ms=1000),
        event(5, watch_ms=None),
    ]
    found = sessions(tmp_path, rows)
    assert {k: r["is_positive"] for k, r in found.items()} == {
        "e1": True,
        "e2": False,
        "e3": True,
        "e4": False,
        "e5": False,
    }
    assert found["e1"]["watch_ratio"] == 0.3
