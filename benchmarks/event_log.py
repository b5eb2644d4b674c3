"""A made-up event log of any size: skewed viewers (one with 1 % of all rows), sessions, copies, bad rows. A day at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

DAYS, FILES_A_DAY, VIDEOS, SESSION = 10, 4, 20_000, 8
FIRST_MS, DAY_MS = 1_767_571_200_000, 86_400_000  # 2026-01-05T00:00:00Z


def write_log(out: Path, rows: int, kind: str, seed: int = 1, *, even: bool = False) -> None:
    """events/ and catalogue.jsonl in `out`; the same arguments give the same rows. even: without the viewer that has 1 % of
    them."""
    events = out / "events"
    events.mkdir(parents=True)
    (out / "catalogue.jsonl").write_text("".join(json.dumps({"video_id": f"v{n:06d}"}) + "\n" for n in range(VIDEOS)))
    rng = np.random.default_rng(seed)
    viewers = max(rows // 100, 10)
    activity = rng.lognormal(0.0, 1.0, viewers)
    heaviest = 0.0 if even else 0.01
    chance = np.r_[heaviest, (1 - heaviest) * activity / activity.sum()]
    names = {"v": _names("v", VIDEOS + 1, 6), "u": _names("u", viewers + 1, 8)}
    for day in range(DAYS):
        table = _day(rng, day, rows // DAYS, chance, names)
        size = -(-len(table) // FILES_A_DAY)
        for part in range(FILES_A_DAY):
            name = f"events-2026-01-{5 + day:02d}-{part}.{kind}"
            _write(table.slice(part * size, size), events / name, kind)


def _names(letter: str, count: int, digits: int) -> pa.Array:
    return pa.array([f"{letter}{n:0{digits}d}" for n in range(count)])


def _day(rng: np.random.Generator, day: int, rows: int, chance: Any, names: dict[str, pa.Array]) -> pa.Table:
    sessions = -(-rows // SESSION)
    viewer = np.repeat(rng.choice(len(chance), sessions, p=chance), SESSION)[:rows]
    starts = rng.integers(0, DAY_MS - 3_600_000, sessions)
    steps = rng.integers(1_000, 90_000, (sessions, SESSION)).cumsum(axis=1)
    ms = FIRST_MS + day * DAY_MS + (starts[:, None] + steps).ravel()[:rows]
    length = rng.integers(3_000, 60_000, rows)
    watch = (length * rng.beta(2, 2, rows) * 1.3).astype(np.int64)
    watch[rng.random(rows) < 0.001] = -5
    video = np.minimum(rng.zipf(1.3, rows), VIDEOS) - 1
    video[rng.random(rows) < 0.001] = VIDEOS  # not in the catalogue
    source = np.arange(rows)
    copies = np.flatnonzero(rng.random(rows) < 0.01)
    source[copies] = np.maximum(copies - rng.integers(1, 1000, len(copies)), 0)
    order = source[np.argsort(ms[source], kind="stable")]
    table = pa.table(
        {
            "event_id": pa.array([f"{day:02d}-{n:010d}" for n in range(rows)]),
            "user_id": names["u"].take(pa.array(viewer)),
            "video_id": names["v"].take(pa.array(video)),
            "event_type": pa.array(["view", "like", "share"]).take(pa.array(rng.choice(3, rows, p=[0.9, 0.07, 0.03]))),
            "timestamp": pa.array(ms),
            "watch_ms": pa.array(watch),
            "duration_ms": pa.array(length),
            "device": pa.array(["android", "ios", "web"]).take(pa.array(rng.integers(0, 3, rows))),
        }
    )
    return table.take(pa.array(order))


def _write(table: pa.Table, path: Path, kind: str) -> None:
    if kind == "parquet":
        pq.write_table(table, path)
    elif kind == "csv":
        pacsv.write_csv(table, path)
    else:
        import polars

        polars.from_arrow(table).write_ndjson(path)  # type: ignore[union-attr]
