"""Events that the endpoint accepts are events that the nightly ingest takes, and both mean the same by "liked"."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from mealrec.schema import EVENT_TYPES
from mealrec.serving.events import is_positive, unfit
from mealrec.serving.journal import Journal
from mealrec.serving.messages import LARGEST_MS, Event
from spark_jobs import outcome
from spark_jobs.records import Columns, records
from spark_jobs.units import parts_of
from spark_jobs.validate import Rules, day_number, judge
from tests.spark_jobs.test_transforms import BASE, CONFIG, event, labelled

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
    assert unfit(events, CONFIG) == []
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
    fields = [problem["loc"][2:] for problem in unfit([Event.model_validate(row) for row in wrong], CONFIG)]
    assert fields == [(0, "timestamp"), (1, "timestamp"), (2, "watch_ms")]
