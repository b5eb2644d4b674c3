"""Events that the endpoint accepts are events that the nightly ingest takes, and both mean the same by "liked"."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mealrec.config import ColumnRule, SessionizeConfig
from mealrec.lake import Lake
from mealrec.schema import EVENT_TYPES, INTERACTIONS
from mealrec.serving.events import is_positive, unfit
from mealrec.serving.journal import Journal, line
from mealrec.serving.messages import LARGEST_MS, Event
from spark_jobs import outcome
from spark_jobs.records import Columns, Part, records
from spark_jobs.units import parts_of
from spark_jobs.validate import Rules, day_number, judge
from tests.spark_jobs.test_nights import DAY, FIRST, MINUTE, World
from tests.spark_jobs.test_transforms import BASE, CONFIG, event, labelled

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
ODD_IDS = (
    'a"b\\c',
    "ünïcode 視聴者",
    "with space inside",
    "<script>",
    "'; drop table --",
    "e\ufffd",
    "0",
    "-1.5e3",
    "null",
)


def accepted() -> list[Event]:
    rows = [event(n, event_id=name, user_id=name, device=name) for n, name in enumerate(ODD_IDS)]
    rows += [event(100 + n, event_type=kind) for n, kind in enumerate(EVENT_TYPES)]
    rows += [event(200 + n, watch_ms=watch) for n, watch in enumerate((0, 299, 300, 301, 20_000))]
    rows += [event(300, watch_ms=...), event(301, duration_ms=...), event(302, watch_ms=..., duration_ms=...)]
    rows += [
        event(303, watch_ms=LARGEST_MS, duration_ms=...),
        event(304, duration_ms=LARGEST_MS),
        event(305, device=""),
    ]
    return [Event.model_validate(row) for row in rows]


def test_what_is_accepted_is_never_quarantined_and_is_liked_alike(tmp_path: Path) -> None:
    events = accepted()
    assert unfit(events, CONFIG, NOW) == []
    journal = Journal(tmp_path / "events")
    name = journal.append(events, "2026-01-05")
    journal.close()
    rules = Rules(CONFIG, frozenset(["v1"]), [day_number("2026-01-05")])
    parts = parts_of([str(tmp_path / "events" / name)], [0], lambda parts: [])
    batches = [judge(b, 0, rules) for b in records(parts[0], Columns({}), CONFIG.max_line_bytes)]
    rows = labelled(pa.Table.from_batches(batches))
    assert len(rows) == len(events)
    assert {r["event_id"]: r["detail"] for r in rows.to_pylist() if r["reason"] is not None} == {}
    liked = {r["event_id"]: r["is_positive"] for r in outcome.interactions(rows.combine_chunks(), CONFIG).to_pylist()}
    assert liked == {e.event_id: is_positive(e, CONFIG) for e in events}


def test_what_the_endpoint_refuses_would_have_been_quarantined() -> None:
    wrong = [event(1, timestamp=1), event(2, timestamp=BASE * 2), event(3, watch_ms=20_001)]
    fields = [problem["loc"][2:] for problem in unfit([Event.model_validate(row) for row in wrong], CONFIG, NOW)]
    assert fields == [(0, "timestamp"), (1, "timestamp"), (2, "watch_ms")]


def oversize(folder: Path, events: list[Event], config: SessionizeConfig) -> list[int]:
    """Places of the events that the night would put into quarantine for their length."""
    journal = Journal(folder)
    path = folder / journal.append(events, "2026-01-05")
    journal.close()
    rules = Rules(config, frozenset(e.video_id for e in events), [day_number("2026-01-05")])
    batches = records(Part(0, str(path), 0, 2**20, 1), Columns({}), config.max_line_bytes)
    judged = pa.Table.from_batches([judge(batch, 0, rules) for batch in batches]).to_pylist()
    assert {row["reason"] for row in judged} == {None, "oversize_field"}
    return sorted(row["line"] - 1 for row in judged if row["reason"])


def test_a_field_that_the_night_would_find_too_long_is_refused(tmp_path: Path) -> None:
    """By its bytes, of which a letter may take several."""
    config = SessionizeConfig(max_field_bytes=32)
    fields = ("event_id", "user_id", "video_id", "device")
    rows = [event(n, **{name: text}) for n, name in enumerate(fields) for text in ("é" * 16, "é" * 16 + "e")]
    events = [Event.model_validate(row) for row in rows]
    wrong = unfit(events, config, NOW)
    assert [problem["loc"] for problem in wrong] == [("body", "events", 2 * n + 1, f) for n, f in enumerate(fields)]
    assert {problem["msg"] for problem in wrong} == {"must not be longer than 32 bytes in UTF-8"}
    assert oversize(tmp_path, events, config) == [1, 3, 5, 7]


def test_an_event_whose_line_the_night_would_find_too_long_is_refused(tmp_path: Path) -> None:
    config = SessionizeConfig(max_line_bytes=1024)
    long = Event.model_validate(event(0, event_id="é" * 140, device=""))
    room = 1024 - len(line(long))
    events = [long.model_copy(update={"device": "d" * length}) for length in (room, room + 1)]
    wrong = unfit(events, config, NOW)
    assert [(problem["loc"], problem["msg"]) for problem in wrong] == [
        (("body", "events", 1), "must not be longer than 1024 bytes as a line of JSON")
    ]
    assert oversize(tmp_path, events, config) == [1]


@pytest.mark.parametrize(
    ("now", "late_days", "believed"),
    [
        ("2026-01-05T12:00", 2, ("2026-01-03T00:00", "2026-01-06T01:30")),
        ("2026-01-05T12:00", 10**6, ("2010-01-01T00:00", "2026-01-06T01:30")),
        ("2026-01-05T23:59:30", 2, ("2026-01-04T00:00", "2026-01-06T01:30")),  # may be written on the sixth
        ("2026-01-06T00:00:30", 2, ("2026-01-04T00:00", "2026-01-06T01:30")),  # or by a clock of the fifth
    ],
)
def test_what_the_night_would_find_too_late_or_of_the_future_is_refused(
    tmp_path: Path, now: str, late_days: int, believed: tuple[str, str]
) -> None:
    config = SessionizeConfig(late_days=late_days, clock_skew_minutes=90)
    first, end = (int(datetime.fromisoformat(f"{time}+00:00").timestamp() * 1000) for time in believed)
    events = [Event.model_validate(event(n, timestamp=at)) for n, at in enumerate((first - 1, first, end - 1, end))]
    wrong = unfit(events, config, datetime.fromisoformat(f"{now}+00:00"))
    assert [problem["loc"][2:] for problem in wrong] == [(0, "timestamp"), (3, "timestamp")]
    told = [time.replace("T", " ") for time in believed]
    assert wrong[0]["msg"] == f"must be from {told[0]} to before {told[1]} UTC"
    journal = Journal(tmp_path)
    path = tmp_path / journal.append(events[1:3], now[:10])
    journal.close()
    rules = Rules(config, frozenset(["v1"]), [day_number(now[:10])])
    (judged,) = [judge(b, 0, rules) for b in records(Part(0, str(path), 0, 2**20, 1), Columns({}), 2**20)]
    assert judged.column("reason").null_count == 2


@pytest.mark.spark
def test_the_journal_is_read_as_it_was_written_whatever_the_teams_own_log_looks_like(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields of other names in seconds, ids from content, hashed viewers: none of it is true of the journal."""
    key = "sixteen bytes or more"
    monkeypatch.setenv("VIEWER_KEY", key)
    monkeypatch.setitem(spark.environment, "VIEWER_KEY", key)  # its workers were started before
    world = World(spark, tmp_path, viewer_key_variable="VIEWER_KEY", late_days=1)
    columns = {"user_id": ColumnRule(name="uid"), "timestamp": ColumnRule(name="ts", unit="s")}
    columns |= {"event_id": ColumnRule(from_content=True), "event_type": ColumnRule(constant="like")}
    source = world.config.source.model_copy(update={"columns": columns})
    world.config = world.config.model_copy(update={"source": source})
    world.file("events-2026-01-05.jsonl", [{"uid": "anna", "ts": FIRST // 1000, "video_id": "v1"}])
    world.night()
    (theirs,) = Lake(world.config.lake).read(INTERACTIONS).to_pylist()
    assert theirs["user_id"] != "anna" and theirs["timestamp_ms"] == FIRST
    served = event(1, user_id=theirs["user_id"], video_id="v2", event_type="share", timestamp=FIRST + MINUTE)
    journal = Journal(tmp_path / "events" / "of-a-node")
    journal.append([Event.model_validate(served)], "2026-01-05")
    journal.append([Event.model_validate(served | {"event_id": "next", "timestamp": FIRST + DAY})], "2026-01-06")
    journal.close()
    assert world.night()["quarantined"] == {}
    rows = {row["event_id"]: row for row in Lake(world.config.lake).read(INTERACTIONS).to_pylist()}
    assert rows.keys() == {theirs["event_id"], "e1", "next"}
    assert {row["user_id"] for row in rows.values()} == {theirs["user_id"]}
    assert (rows["e1"]["event_type"], rows["e1"]["timestamp_ms"]) == ("share", FIRST + MINUTE)
    assert rows["e1"]["session_id"] == theirs["session_id"], "the viewer is the same one"
    world.same_as_a_rebuild()
