"""Stage `evaluate`: full ranking of the test targets, the baselines in the same run, a JSON report and an HTML page."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.data.packed import Packed
from mealrec.evaluation.beyond import spread
from mealrec.evaluation.metrics import gains, hits, summarise
from mealrec.evaluation.ranking import Ranked, baselines, model_scorer, rank_targets
from mealrec.evaluation.salience import frame_auc
from mealrec.evaluation.significance import paired_bootstrap
from mealrec.evaluation.slices import slices
from mealrec.lake import Lake
from mealrec.registry.tracking import EVALUATED_TAG, SUMMARY_TAG, Tracker
from mealrec.serving.recommender import Recommender
from mealrec.sources.landing import locate
from mealrec.sources.simulated.truth import TRUTH, Truth
from mealrec.stages.pages import write_page
from mealrec.stages.summary import StageError, StageSummary
from mealrec.stages.train import bundle_folder, packed_dataset, pinned_versions, train_digest

log = logging.getLogger("mealrec.evaluate")

REPORT, PER_VIEWER, PAGE = "report.json", "per_viewer.parquet", "report.html"
EVALUATION_SUMMARY = f"{SUMMARY_TAG}.evaluate"
SALIENCE_VIEWERS = 200


def evaluate(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when this model was evaluated with these settings before."""
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    trained = train_digest(config, lake)
    tracker = Tracker(config.registry, lake.work)
    run = tracker.find("train", trained)
    if run is None or not bundle_folder(lake, trained).is_dir():
        raise StageError("there is no trained model of these tables and settings: run `mealrec train` first")
    made_from = evaluation_digest(config, trained)
    out = lake.folder("reports") / made_from
    if run.tags.get(EVALUATED_TAG) == made_from and (out / REPORT).is_file():
        log.info("up to date: report %s", out / PAGE)
        return StageSummary.stored(json.loads(run.tags[EVALUATION_SUMMARY]), None)
    claim = lake.claim("evaluate", run_id)
    torch.set_num_threads(max(config.ray.num_cpus, 1))
    packed = packed_dataset(config, lake, pinned_versions(lake))
    recommender = Recommender.load(bundle_folder(lake, trained))
    ranked = _rank_all(config, packed, recommender)
    report = _report(config, lake, packed, recommender, ranked, trained)
    lake.check(claim)
    out.mkdir(parents=True, exist_ok=True)
    _write_per_viewer(out / PER_VIEWER, packed, ranked)
    (out / REPORT).write_text(json.dumps(report, indent=1))
    write_page(config, lake, packed, recommender, report, ranked["mealrec"], out / PAGE)
    summary = StageSummary(
        stage="evaluate",
        seconds=round(time.monotonic() - began, 3),
        rows_in=packed.viewers,
        rows_out=len(ranked["mealrec"].viewer),
        details={"metrics": report["metrics"], "salience": report["salience"], "report": str(out / PAGE)},
    )
    _log(tracker, run.run_id, report, out, made_from, summary)
    return summary


def evaluation_digest(config: RunConfig, trained: str) -> str:
    """Of all that decides the report of a trained model."""
    return digest("evaluate", __version__, trained, config.evaluate, config.registry.confidence)


def _rank_all(config: RunConfig, packed: Packed, recommender: Recommender) -> dict[str, Ranked]:
    model = recommender.model
    scorers = {
        "mealrec": model_scorer(model, packed.content.gather, recommender.catalogue),
        **{name: b.scores for name, b in baselines(packed).items()},
    }
    ranked = {}
    for name, scorer in scorers.items():
        began = time.monotonic()
        ranked[name] = rank_targets(scorer, packed, "test", max_history=model.settings.max_history, exposure=True)
        viewers = len(ranked[name].viewer)
        log.info("ranked %d viewers by %s in %.1f s", viewers, name, time.monotonic() - began)
    if not len(ranked["mealrec"].viewer):
        raise StageError("no viewer has a test target: sequences need at least two items")
    return ranked


def _report(
    config: RunConfig, lake: Lake, packed: Packed, recommender: Recommender, ranked: dict[str, Ranked], trained: str
) -> dict[str, Any]:
    ks = config.evaluate.ks
    ranks = {name: torch.from_numpy(r.rank) for name, r in ranked.items()}
    own = gains(ranks["mealrec"], 10).numpy()
    intervals = {
        name: paired_bootstrap(
            own,
            gains(r, 10).numpy(),
            samples=config.evaluate.bootstrap,
            confidence=config.registry.confidence,
            seed=config.seed,
        )._asdict()
        for name, r in ranks.items()
        if name != "mealrec"
    }
    salience = _salience(config, packed, recommender)
    return {
        "format": 1,
        "metrics": {"test": {name: summarise(r, ks) for name, r in ranks.items()}},
        "intervals": {"ndcg@10": intervals},
        "slices": _slices(packed, ranked),
        "beyond": {name: spread(r.shown, packed.content.train_count().numpy()) for name, r in ranked.items()},
        "viewers": len(own),
        "items": packed.items,
        "data": packed.meta["versions"],
        "data_digest": digest(packed.meta["versions"], lake.root),
        "tokens": packed.meta["tokens"],
        "salience": salience,
        "curves": json.loads((bundle_folder(lake, trained) / "curves.json").read_text()),
        "config": config.model_dump(mode="json"),
    }


def _slices(packed: Packed, ranked: dict[str, Ranked]) -> list[dict[str, Any]]:
    """HR@10 of every system by what is known of the target and of the viewer."""
    first = ranked["mealrec"]
    return [
        {
            "slice": name,
            "viewers": int(chosen.sum()),
            **{system: float(hits(torch.from_numpy(r.rank[chosen]), 10).mean()) for system, r in ranked.items()},
        }
        for name, chosen in slices(packed, first.viewer, first.target).items()
    ]


def _salience(config: RunConfig, packed: Packed, recommender: Recommender) -> dict[str, Any] | None:
    """AUC of TCD's frame weights where the truth is known, None elsewhere: `auc` of every video in item mode (nobody's
    eyes), `viewer_auc` of the histories of up to 200 viewers as each of them sees it."""
    landing = locate(config).root
    if config.model.tokens != "frames" or not (landing / TRUTH).is_file():
        return None
    truth = Truth.load(landing)
    times, mask = recommender.content.times().numpy(), np.asarray(recommender.content.arrays["frame_mask"])
    salient = {
        index: np.array(truth.salient(video, times[index][mask[index]].tolist()))
        for index, video in enumerate(recommender.video_ids, start=1)
        if mask[index].any() and (times[index][mask[index]] >= 0).all() and video in truth.salience
    }
    general = recommender.salience.numpy().astype(np.float64)
    found = frame_auc([general[i][mask[i]] for i in salient], list(salient.values()))
    weights, truths = [], []
    for viewer in range(0, packed.viewers, max(packed.viewers // SALIENCE_VIEWERS, 1)):
        history = [int(i) for i in packed.history(viewer, "test")]
        own = recommender.explain(history)
        for index, row in zip(history[-len(own) :], own, strict=True):
            if index in salient:
                weights.append(row[mask[index]].astype(np.float64))
                truths.append(salient[index])
    return found._asdict() | {"viewer_auc": frame_auc(weights, truths).auc}


def _write_per_viewer(path: Path, packed: Packed, ranked: dict[str, Ranked]) -> None:
    first = ranked["mealrec"]
    columns: dict[str, Any] = {"user_id": packed.user_ids(first.viewer), "item_index": first.target}
    columns |= {f"rank_{name}": r.rank for name, r in ranked.items()}
    pq.write_table(pa.table(columns), path)


def _log(
    tracker: Tracker, run_id: str, report: dict[str, Any], out: Path, made_from: str, summary: StageSummary
) -> None:
    now = int(time.time() * 1000)
    numbers = {f"test.{s}.{n}": v for s, values in report["metrics"]["test"].items() for n, v in values.items()}
    if report["salience"]:
        numbers["test.salience_auc"] = report["salience"]["auc"]
    tracker.log_metrics(run_id, numbers, step=0, timestamp_ms=now)
    tracker.log_artifacts(run_id, out, "evaluation")
    tracker.set_tags(run_id, {EVALUATION_SUMMARY: json.dumps(summary.counts()), EVALUATED_TAG: made_from})
