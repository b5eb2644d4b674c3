"""Stage `promote`: register the evaluated model, ask the gate, move the aliases; and its reverse, `rollback`."""

from __future__ import annotations

import getpass
import json
import logging
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from mealrec.config import RunConfig
from mealrec.data.packed import Packed
from mealrec.evaluation.metrics import gains, hits
from mealrec.lake import Lake
from mealrec.registry import flavour, promotion
from mealrec.registry.gate import Evidence, GatePolicy, decide
from mealrec.registry.promotion import Version
from mealrec.registry.tracking import EVALUATED_TAG, VERSION_TAG, RunRecord, Tracker
from mealrec.serving.recommender import BundleError
from mealrec.stages.evaluate import PER_VIEWER, REPORT
from mealrec.stages.summary import StageError, StageSummary
from mealrec.stages.train import bundle_folder, packed_dataset, pinned_versions, train_digest

log = logging.getLogger("mealrec.promote")

PREDICT_VIEWERS = 4


def promote(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when this evaluation's version was decided before. A refused challenger is a result, not an error."""
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    tracker = Tracker(config.registry, lake.work)
    trained = train_digest(config, lake)
    run = tracker.find("train", trained)
    if run is None or EVALUATED_TAG not in run.tags:
        raise StageError("there is no evaluated model of these tables and settings: run `mealrec evaluate` first")
    version = promotion.by_evaluation(tracker, run.tags[EVALUATED_TAG])
    if version is not None and promotion.GATE_TAG in version.tags and _settled(tracker, version):
        log.info("up to date: version %s, gate %s", version.version, version.tags[promotion.GATE_TAG])
        return _summary(config, tracker, version, began, skipped=True)
    claim = lake.claim("promote", run_id)
    if version is None:
        version = _register(config, tracker, run, bundle_folder(lake, trained), run_id, lambda: lake.check(claim))
    if promotion.GATE_TAG not in version.tags:
        packed = packed_dataset(config, lake, pinned_versions(lake))
        version = _decide(config, tracker, version, packed)
    lake.check(claim)
    if version.gate["passed"]:
        version = promotion.promote(tracker, version, who=getpass.getuser(), when=_now())
    return _summary(config, tracker, version, began, skipped=False)


def rollback(config: RunConfig) -> Version:
    """champion and previous change places. Raises PromotionError when there is nothing to go back to."""
    tracker = Tracker(config.registry, Lake(config.lake, config.work).work)
    return promotion.rollback(tracker, who=getpass.getuser(), when=_now())


def rival_metrics(config: RunConfig, version: str) -> tuple[str, dict[str, float]] | None:
    """Version and test metrics, by its own report, of the champion, or of the one before where `version` is the champion.

    None when there is no such version yet."""
    lake = Lake(config.lake, config.work)
    tracker = Tracker(config.registry, lake.work)
    rival = promotion.by_alias(tracker, promotion.CHAMPION)
    if rival is not None and rival.version == version:
        rival = promotion.by_alias(tracker, promotion.PREVIOUS)
    if rival is None:
        return None
    tracker.activate()
    with tempfile.TemporaryDirectory() as scratch:
        path = tracker.client.download_artifacts(rival.run_id, f"evaluation/{REPORT}", scratch)
        metrics: dict[str, float] = json.loads(Path(path).read_text())["metrics"]["test"]["mealrec"]
    return rival.version, metrics


def _settled(tracker: Tracker, version: Version) -> bool:
    """A version that passed was made champion (it may have been replaced since); one that was refused needs nothing."""
    return not version.gate["passed"] or promotion.MOVES_TAG in version.tags


def _register(
    config: RunConfig, tracker: Tracker, run: RunRecord, bundle: Path, run_id: str, check: Callable[[], None]
) -> Version:
    """check: raises when a newer run has taken over; asked after the slow part, just before the registry changes."""
    uri = flavour.log_model(tracker, run.run_id, bundle)
    tags = {EVALUATED_TAG: run.tags[EVALUATED_TAG], "mealrec.run_id": run_id, "mealrec.registered": _now()}
    tags |= {k: v for k, v in run.tags.items() if k.startswith(VERSION_TAG)}
    check()
    version = promotion.register(tracker, uri, run.run_id, tags)
    log.info("registered %s version %s", config.registry.model_name, version.version)
    return version


def _decide(config: RunConfig, tracker: Tracker, version: Version, packed: Packed) -> Version:
    policy = GatePolicy(
        metric=config.registry.gate_metric,
        baselines=config.registry.baselines,
        confidence=config.registry.confidence,
        samples=config.evaluate.bootstrap,
        seed=config.seed,
    )
    champion = promotion.by_alias(tracker, promotion.CHAMPION)
    loads = _loads(tracker, config.registry.model_name, version, packed)
    challenger = _evidence(config, tracker, version, loads)
    standing = _evidence(config, tracker, champion, None) if champion is not None else None
    decision = decide(challenger, standing, policy)
    for check in decision.checks:
        log.info("gate: %s %s", "ok  " if check.passed else "FAIL", check.words)
    return promotion.record(tracker, version, decision)


def _loads(tracker: Tracker, name: str, version: Version, packed: Packed) -> str | None:
    """Load from the registry and predict for real viewers, as a client would; None when all is well."""
    ids = packed.item_ids()
    viewers = range(min(PREDICT_VIEWERS, packed.viewers))
    histories = [[ids[i - 1] for i in packed.history(v, "test")] for v in viewers]
    try:
        model = flavour.load(tracker, f"models:/{name}/{version.version}")
        answer = flavour.predict(model, histories, 5)
    except (BundleError, ValueError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    for history, recommended, scores in zip(histories, answer["video_ids"], answer["scores"], strict=True):
        if not recommended or set(recommended) & set(history):
            return "recommends nothing, or what was watched before"
        if not np.isfinite(scores).all():
            return "gives scores that are not finite"
    return None


def _evidence(config: RunConfig, tracker: Tracker, version: Version, loads: str | None) -> Evidence:
    tracker.activate()
    folder = Path(tracker.client.download_artifacts(version.run_id, "evaluation"))
    report = json.loads((folder / REPORT).read_text())
    table = pq.read_table(folder / PER_VIEWER)
    ranks = {n.removeprefix("rank_"): table[n].to_numpy() for n in table.column_names if n.startswith("rank_")}
    return Evidence(
        version=version.version,
        metrics=report["metrics"]["test"],
        values={name: _values(config.registry.gate_metric, rank) for name, rank in ranks.items()},
        viewers=tuple(table["user_id"].to_pylist()),
        data_digest=report["data_digest"],
        loads=loads,
    )


def _values(metric: str, rank: Any) -> Any:
    name, _, k = metric.partition("@")
    per_viewer = {"hr": hits, "ndcg": gains}[name]
    return per_viewer(torch.from_numpy(np.array(rank)), int(k)).numpy()


def _summary(config: RunConfig, tracker: Tracker, version: Version, began: float, *, skipped: bool) -> StageSummary:
    version = promotion.get(tracker, version.version)
    model = {
        "name": config.registry.model_name,
        "version": version.version,
        "aliases": list(version.aliases),
        "gate": version.gate,
    }
    return StageSummary(
        stage="promote",
        seconds=round(time.monotonic() - began, 3),
        rows_in=1,
        rows_out=int(version.gate["passed"]),
        skipped=skipped,
        details={"model": model},
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
