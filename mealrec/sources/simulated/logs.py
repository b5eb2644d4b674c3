"""Daily log files with known faults: late and out-of-order events, duplicates, and one malformed row kind a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mealrec.sources.simulated.behaviour import DAY_MS, FIRST_DAY_MS, Memory, day_events
from mealrec.sources.simulated.streams import Purpose, stream
from mealrec.sources.simulated.world import VideoPlan, Viewer

LATE_SHARE = 0.02
ISO_SHARE = 0.1
DUPLICATE_SHARE = 0.01
BAD_SHARE = 0.0015  # of a file's rows, for each reason; at least one
OUTAGE_DAY = 5  # this day's file is empty when there are at least 7 days
Row = dict[str, Any]


def write_logs(
    seed: int, plans: list[VideoPlan], viewers: list[Viewer], days: int, folder: Path, *, outage: bool
) -> tuple[Counter[str], Counter[str]]:
    """Write events-YYYY-MM-DD.jsonl for every day. Returns rows by kind (written, valid, late, iso_time) and the rows that
    must be rejected, by reason. A file is a function of (seed, day): days added later leave older files as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    memories = {viewer.number: Memory() for viewer in viewers}
    rows, rejected = Counter[str](), Counter[str]()
    late: list[Row] = []
    for day in range(days):
        released = [p for p in plans if p.release_day <= day]
        events = [] if outage and day == OUTAGE_DAY else _events(seed, viewers, day, released, memories)
        rng = stream(seed, Purpose.FILE, day)
        is_late = rng.random(len(events)) < LATE_SHARE
        punctual = [e for e, held in zip(events, is_late, strict=True) if not held]
        rows["late"] += len(late)
        lines = _lines(rng, punctual + late, day, rows, rejected) if events else []
        late = [e for e, held in zip(events, is_late, strict=True) if held] if events else late
        text = "".join(f"{line}\n" for line in lines)
        _write(folder / f"events-{_day(day)}.jsonl", text)
        rows["written"] += len(lines)
    rows["valid"] = rows["written"] - sum(rejected.values())
    return rows, rejected


def _write(path: Path, text: str) -> None:
    """Nothing where the file holds just this already: a night tells new files from old ones by their time of change."""
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def _events(
    seed: int, viewers: list[Viewer], day: int, released: list[VideoPlan], memories: dict[int, Memory]
) -> list[Row]:
    return [e for v in viewers for e in day_events(seed, v, day, released, memories[v.number])]


def _lines(
    rng: np.random.Generator, good: list[Row], day: int, rows: Counter[str], rejected: Counter[str]
) -> list[str]:
    lines = [_line(rng, row, rows) for row in good]
    copies = max(1, int(len(good) * DUPLICATE_SHARE))
    lines += [lines[int(i)] for i in rng.choice(len(good), min(copies, len(good)), replace=False)]
    rejected["duplicate_event"] += min(copies, len(good))
    each = max(1, int(len(good) * BAD_SHARE))
    for reason, spoil in _SPOILERS.items():
        for number in range(each):
            row = dict(good[int(rng.integers(len(good)))])
            row["event_id"] = f"bad-{reason}-{day:03d}-{number:03d}"
            lines.append(spoil(rng, row))
            rejected[reason] += 1
    return [lines[int(i)] for i in rng.permutation(len(lines))]


def _line(rng: np.random.Generator, row: Row, rows: Counter[str]) -> str:
    if rng.random() < ISO_SHARE:
        moment = datetime.fromtimestamp(row["timestamp"] / 1000, UTC)
        row = row | {"timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        rows["iso_time"] += 1
    return json.dumps(row)


def _day(day: int) -> str:
    return datetime.fromtimestamp((FIRST_DAY_MS + day * DAY_MS) / 1000, UTC).date().isoformat()


def _unparseable(rng: np.random.Generator, row: Row) -> str:
    whole = json.dumps(row)
    return str(rng.choice([whole[: len(whole) // 2], "not json at all", "[1, 2, 3]"]))


def _missing_key(rng: np.random.Generator, row: Row) -> str:
    gone = str(rng.choice(["user_id", "video_id", "timestamp"]))
    return json.dumps({k: v for k, v in row.items() if k != gone})


def _bad_type(rng: np.random.Generator, row: Row) -> str:
    field, value = [("watch_ms", "soon"), ("timestamp", "2026-01-07 10:00:00"), ("user_id", {"name": "x"})][
        int(rng.integers(3))
    ]
    return json.dumps(row | {field: value})


def _with(**changes: Any) -> Callable[[np.random.Generator, Row], str]:
    return lambda rng, row: json.dumps(row | changes)


_SPOILERS: dict[str, Callable[[np.random.Generator, Row], str]] = {
    "unparseable": _unparseable,
    "missing_key": _missing_key,
    "bad_type": _bad_type,
    "impossible_time": _with(timestamp=86_400_000),
    "future": lambda rng, row: json.dumps(row | {"timestamp": row["timestamp"] + 400 * DAY_MS}),
    "negative_watch": _with(watch_ms=-100),
    "watch_too_long": lambda rng, row: json.dumps(row | {"watch_ms": row["duration_ms"] * 50}),
    "bad_duration": _with(watch_ms=10, duration_ms=0),
    "unknown_event_type": _with(event_type="teleport"),
    "unknown_video": _with(video_id="v99999999"),
}
