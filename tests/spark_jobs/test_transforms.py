"""The transforms against short oracles, on shuffled rows."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from mealrec.config import SessionizeConfig
from mealrec.schema import EVENT_REASONS

pytestmark = pytest.mark.spark

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


def checked(spark: Any, folder: Path, lines: list[str], files: int = 2, videos: tuple[str, ...] = ("v1", "v2")) -> Any:
    from spark_jobs.parse import parsed, raw_lines
    from spark_jobs.validate import checked as check

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n in range(files):
        path = folder / f"events-2026-01-{n + 5:02d}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines[n::files]))
        paths.append(str(path))
    catalogue = spark.createDataFrame([(v,) for v in videos], "video_id string")
    return check(parsed(raw_lines(spark, paths)), catalogue, CONFIG)


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
    "future": [json.dumps(event(9, timestamp=BASE + 400 * 86_400_000))],
    "negative_watch": [json.dumps(event(10, watch_ms=-1))],
    "watch_too_long": [json.dumps(event(11, watch_ms=50_000))],
    "bad_duration": [json.dumps(event(12, duration_ms=0)), json.dumps(event(13, duration_ms=-5))],
    "unknown_event_type": [json.dumps(event(14, event_type="teleport")), json.dumps(event(15, event_type=None))],
    "unknown_video": [json.dumps(event(16, video_id="v404"))],
    "duplicate_event": [json.dumps(event(100, timestamp=BASE + 999 * MINUTE))],
}
GOOD = [
    json.dumps(event(100)),
    json.dumps(event(101, timestamp="2026-01-07T10:00:00Z")),
    json.dumps(event(102, timestamp="2026-01-07T10:00:00.250+01:00")),
    json.dumps(event(103, watch_ms=None, duration_ms=None, event_type="like", extra="ignored", device=...)),
    json.dumps(event(104, timestamp=str(BASE))),
]


def test_every_reason_is_given_to_what_deserves_it_and_nothing_is_lost(spark: Any, tmp_path: Path) -> None:
    from spark_jobs.validate import rejected

    assert set(BAD) == set(EVENT_REASONS)
    lines = GOOD + [line for bad in BAD.values() for line in bad]
    random.Random(1).shuffle(lines)
    lines = [line.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for line in lines]
    rows = checked(spark, tmp_path, [*lines, "", "   "]).cache()
    found = Counter(r["reason"] for r in rows.select("reason").collect())
    assert found == Counter({None: len(GOOD), **{reason: len(bad) for reason, bad in BAD.items()}})
    kept = {r["payload"]: r for r in rejected(rows).collect()}
    assert set(kept) == set(lines) - set(GOOD)
    one = kept[BAD["watch_too_long"][0]]
    assert one["key"] == "e11" and "watch_ms is 50000" in one["detail"] and one["stage"] == "sessionize"
    file = tmp_path / one["source_file"]
    assert file.read_text().splitlines()[one["line"] - 1] == one["payload"]
    assert one["ingest_date"] in one["source_file"]


def test_times_in_all_legal_forms_become_utc_milliseconds(spark: Any, tmp_path: Path) -> None:
    rows = {r["event_id"]: r["timestamp_ms"] for r in checked(spark, tmp_path, GOOD).collect()}
    assert rows["e100"] == BASE + 100 * MINUTE
    assert rows["e101"] == 1_767_780_000_000
    assert rows["e102"] == 1_767_776_400_250
    assert rows["e104"] == BASE


def test_an_empty_log_day_is_no_reason_to_stop(spark: Any, tmp_path: Path) -> None:
    rows = checked(spark, tmp_path, GOOD[:1], files=3)
    assert [r["reason"] for r in rows.collect()] == [None]


def random_log(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = [
        event(
            n, user_id=f"u{draw.randint(1, 5)}", timestamp=BASE + draw.choice([0, 1, 29, 30, 31, 100]) * MINUTE * n // 3
        )
        for n in range(80)
    ]
    draw.shuffle(rows)
    return rows


def oracle_sessions(rows: list[dict[str, Any]]) -> set[tuple[str, str, int]]:
    """(user, start of session, event) by going through each viewer's events in order."""
    out = {}
    for user in {r["user_id"] for r in rows}:
        start = last = None
        for row in sorted((r for r in rows if r["user_id"] == user), key=lambda r: (r["timestamp"], r["event_id"])):
            if last is None or row["timestamp"] - last > 30 * MINUTE:
                start = row["timestamp"]
            out[row["event_id"]] = (user, start)
            last = row["timestamp"]
    return {(user, event_id, start) for event_id, (user, start) in out.items()}


def sessions(spark: Any, folder: Path, rows: list[dict[str, Any]], files: int = 2) -> dict[str, Any]:
    from spark_jobs.sessionize import interactions

    table = interactions(checked(spark, folder, [json.dumps(r) for r in rows], files=files), CONFIG)
    return {r["event_id"]: r for r in table.collect()}


@pytest.mark.parametrize("seed", [1, 2])
def test_sessions_agree_with_twenty_lines_of_python(spark: Any, tmp_path: Path, seed: int) -> None:
    rows = random_log(seed)
    found = sessions(spark, tmp_path, rows)
    starts: dict[str, int] = {}
    for row in sorted(found.values(), key=lambda r: (r["timestamp_ms"], r["event_id"])):
        starts.setdefault(row["session_id"], row["timestamp_ms"])
    got = {(r["user_id"], r["event_id"], starts[r["session_id"]]) for r in found.values()}
    assert got == oracle_sessions(rows)
    by_session = defaultdict(list)
    for row in found.values():
        by_session[row["session_id"]].append(row)
    for members in by_session.values():
        members.sort(key=lambda r: r["session_position"])
        assert [r["session_position"] for r in members] == list(range(len(members)))
        order = [(r["timestamp_ms"], r["event_id"]) for r in members]
        assert order == sorted(order)


def test_session_ids_do_not_depend_on_order_files_or_other_viewers(spark: Any, tmp_path: Path) -> None:
    rows = random_log(3)
    first = sessions(spark, tmp_path / "a", rows)
    again = sessions(spark, tmp_path / "b", rows[::-1], files=3)
    alone = sessions(spark, tmp_path / "c", [r for r in rows if r["user_id"] == "u1"], files=1)
    ids = {k: (r["session_id"], r["session_position"]) for k, r in first.items()}
    assert ids == {k: (r["session_id"], r["session_position"]) for k, r in again.items()}
    assert all(ids[k] == (r["session_id"], r["session_position"]) for k, r in alone.items())


def test_positive_is_a_long_view_or_a_positive_event(spark: Any, tmp_path: Path) -> None:
    rows = [
        event(1, watch_ms=300),
        event(2, watch_ms=299),
        event(3, event_type="like", watch_ms=None, duration_ms=None),
        event(4, event_type="comment", watch_ms=1000),
        event(5, watch_ms=None),
    ]
    found = sessions(spark, tmp_path, rows)
    assert {k: r["is_positive"] for k, r in found.items()} == {
        "e1": True,
        "e2": False,
        "e3": True,
        "e4": False,
        "e5": False,
    }
    assert found["e1"]["watch_ratio"] == 0.3 and found["e1"]["event_date"] == "2026-01-05"


def oracle_kcore(pairs: set[tuple[str, str]], user_core: int, item_core: int) -> set[tuple[str, str]]:
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(v for _, v in pairs)
        kept = {(u, v) for u, v in pairs if users[u] >= user_core and items[v] >= item_core}
        if kept == pairs:
            return kept
        pairs = kept


def test_the_k_core_agrees_with_peeling_by_hand(spark: Any) -> None:
    from spark_jobs.kcore import kcore

    draw = random.Random(7)
    pairs = {(f"u{draw.randint(1, 12)}", f"v{draw.randint(1, 12)}") for _ in range(62)}
    frame = spark.createDataFrame(sorted(pairs), "user_id string, video_id string")
    left, rounds = kcore(frame, user_core=3, item_core=4)
    assert {(r["user_id"], r["video_id"]) for r in left.collect()} == oracle_kcore(pairs, 3, 4)
    assert oracle_kcore(pairs, 3, 4) not in (set(), pairs) and rounds > 1


def test_the_item_index_is_dense_ordered_and_append_only(spark: Any) -> None:
    from spark_jobs.items import items

    seen = spark.createDataFrame(
        [("u1", "c", 30), ("u2", "a", 10), ("u1", "a", 20)], "user_id string, video_id string, timestamp_ms bigint"
    )
    catalogue = spark.createDataFrame([("d",), ("c",), ("b",), ("a",)], "video_id string")
    first = items(spark, catalogue, seen, None).cache()
    table = {r["video_id"]: r for r in first.collect()}
    assert {k: r["item_index"] for k, r in table.items()} == {"a": 1, "c": 2, "b": 3, "d": 4}
    assert (table["a"]["interactions"], table["a"]["viewers"], table["a"]["first_seen_ms"]) == (2, 2, 10)
    assert table["b"]["interactions"] == 0 and table["b"]["first_seen_ms"] is None
    more = spark.createDataFrame([("0",), ("d",), ("c",), ("a",)], "video_id string")
    later = {r["video_id"]: r["item_index"] for r in items(spark, more, seen, first).collect()}
    assert later == {"a": 1, "c": 2, "b": 3, "d": 4, "0": 5}


def test_sequences_are_chronological_first_occurrences_with_boundaries_and_splits(spark: Any) -> None:
    from spark_jobs.sequences import SplitTimes, positive_pairs, sequences, split_times

    rows = [
        ("u1", "a", 10, "e1", "s1", True),
        ("u1", "b", 10, "e0", "s1", True),
        ("u1", "a", 50, "e2", "s2", True),  # seen before
        ("u1", "c", 90, "e3", "s2", True),
        ("u1", "d", 95, "e4", "s2", False),
        ("u2", "d", 110, "e5", "s3", True),
    ]
    draw = rows[::-1]
    events = spark.createDataFrame(
        draw,
        "user_id string, video_id string, timestamp_ms bigint, event_id string, session_id string, is_positive boolean",
    )
    index = spark.createDataFrame([("a", 1), ("b", 2), ("c", 3), ("d", 4)], "video_id string, item_index bigint")
    pairs = positive_pairs(events)
    times = split_times(pairs, valid_share=0.2, test_share=0.1)
    assert times == SplitTimes(valid_ms=80, test_ms=100)
    table = {r["user_id"]: r for r in sequences(pairs, index, times, buckets=4).collect()}
    one = table["u1"]
    assert (one["item_index"], one["timestamp_ms"]) == ([2, 1, 3], [10, 10, 90])
    assert one["session_start"] == [True, False, True]
    assert (one["length"], one["temporal_valid_start"], one["temporal_test_start"]) == (3, 2, 3)
    assert (table["u2"]["temporal_valid_start"], table["u2"]["temporal_test_start"]) == (0, 0)
