"""The run behind a served version, for the page: curves, metrics, slices, tables, drift, ablations, promotions.

Everything is read when asked for: the report from the registry, counts from the tables' commits, drift from the work
folder. Cost: one artifact, and up to PROFILED rows of `interactions` for the histograms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.registry import promotion, trail
from mealrec.registry.tracking import Tracker
from mealrec.schema import FEATURES, INTERACTIONS, RECOMMENDATIONS, SEQUENCES
from mealrec.serving.world import World
from mealrec.stages.evidence import report_of

PROFILED = 1_000_000
RATIO_BINS, HOURS = 20, 24
LONGEST_RATIO = 2.0
TABLES = ((INTERACTIONS, "sessionize"), (SEQUENCES, "sequences"), (FEATURES, "extract"), (RECOMMENDATIONS, "recommend"))


def run_report(world: World, version: str) -> dict[str, Any]:
    """Raises PromotionError for an unknown version."""
    tracker = Tracker(world.config.registry, world.lake.work)
    found = promotion.get(tracker, version)
    report = report_of(tracker, found.run_id)[0]
    entries = trail.read(world.lake, world.config.registry.model_name).entries
    return {
        "version": version,
        "aliases": list(found.aliases),
        "report": {key: value for key, value in report.items() if key != "config"},
        "promotions": [asdict(entry) for entry in entries[-20:]],
        "tables": [_table(world.lake, table, stage) for table, stage in TABLES],
        "profile": _profile(world.lake),
        "drift": _drift(world.lake),
        "ablations": _ablations(world.config.serve.benchmarks),
    }


def _table(lake: Lake, table: str, stage: str) -> dict[str, Any]:
    commit = lake.last_commit(table, stage)
    if commit is None:
        return {"table": table, "version": None}
    counts: Mapping[str, Any] = json.loads(commit.metadata[SUMMARY_KEY])
    kept = ("rows_in", "rows_out", "quarantined", "seconds")
    return {"table": table, "version": commit.version} | {key: counts[key] for key in kept}


def _profile(lake: Lake) -> dict[str, Any] | None:
    """Histograms over the first PROFILED rows; None before the first night."""
    if not lake.exists(INTERACTIONS):
        return None
    columns = ["watch_ratio", "timestamp_ms", "event_type", "session_id"]
    scanner = lake.dataset(INTERACTIONS).scanner(columns=columns)
    ratios, hours = np.zeros(RATIO_BINS, dtype=np.int64), np.zeros(HOURS, dtype=np.int64)
    types: Counter[str] = Counter()
    rows, first, last = 0, None, None
    for batch in scanner.to_batches():
        rows += batch.num_rows
        ratio = batch.column("watch_ratio").drop_null().to_numpy(zero_copy_only=False)
        ratios += np.histogram(np.clip(ratio, 0, LONGEST_RATIO), RATIO_BINS, (0, LONGEST_RATIO))[0]
        times = batch.column("timestamp_ms").to_numpy()
        if len(times):
            hours += np.bincount(times // 3_600_000 % HOURS, minlength=HOURS)
            first = int(times.min()) if first is None else min(first, int(times.min()))
            last = int(times.max()) if last is None else max(last, int(times.max()))
        types.update(batch.column("event_type").to_pylist())
        if rows >= PROFILED:
            break
    return {
        "rows": rows,
        "whole": rows < PROFILED,
        "first_ms": first,
        "last_ms": last,
        "watch_ratio": {"to": LONGEST_RATIO, "counts": ratios.tolist()},
        "hour": hours.tolist(),
        "event_type": dict(sorted(types.items())),
    }


def _drift(lake: Lake) -> dict[str, Any] | None:
    path = lake.work / "drift" / "drift.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


def _ablations(benchmarks: str | None) -> list[dict[str, Any]] | None:
    """Rows of a result file of `mealrec bench quality`, one a dataset and model; None where no file was given."""
    if benchmarks is None:
        return None
    cells = json.loads(Path(benchmarks).read_text())["cells"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for cell in cells:
        if not cell["variant"]:
            groups.setdefault((cell["dataset"], cell["model"]), []).append(cell)
    return [
        {"dataset": dataset, "model": model, "seeds": len(group)}
        | {name: float(np.mean([c["metrics"]["test"][name] for c in group])) for name in ("hr@10", "ndcg@10")}
        for (dataset, model), group in groups.items()
    ]
