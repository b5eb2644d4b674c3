"""Events that the endpoint accepts are events that the nightly ingest takes, and both mean the same by "liked"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mealrec.schema import EVENT_TYPES
from mealrec.serving.events import is_positive, unfit
from mealrec.serving.journal import Journal
from mealrec.serving.messages import LARGEST_MS, Event
from tests.spark_jobs.test_transforms import BASE, CONFIG, event

pytestmark = pytest.mark.spark

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


def test_what_is_accepted_is_never_quarantined_and_is_liked_alike(spark: Any, tmp_path: Path) -> None:
    from spark_jobs.parse import parsed, raw_lines
    from spark_jobs.sessionize import interactions
    from spark_jobs.validate import checked

    events = accepted()
    assert unfit(events, CONFIG) == []
    journal = Journal(tmp_path / "events")
    name = journal.append(events, "2026-01-05")
    journal.close()
    catalogue = spark.createDataFrame([("v1",)], "video_id string")
    found = checked(parsed(raw_lines(spark, [str(tmp_path / "events" / name)])), catalogue, CONFIG)
    rows = found.collect()
    assert len(rows) == len(events)
    assert {row["event_id"]: row["detail"] for row in rows if row["reason"] is not None} == {}
    liked = {row["event_id"]: row["is_positive"] for row in interactions(found, CONFIG).collect()}
    assert liked == {e.event_id: is_positive(e, CONFIG) for e in events}


def test_what_the_endpoint_refuses_would_have_been_quarantined() -> None:
    wrong = [event(1, timestamp=1), event(2, timestamp=BASE * 2), event(3, watch_ms=20_001)]
    fields = [problem["loc"][2:] for problem in unfit([Event.model_validate(row) for row in wrong], CONFIG)]
    assert fields == [(0, "timestamp"), (1, "timestamp"), (2, "watch_ms")]
