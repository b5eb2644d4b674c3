"""What the gate is told of a model version: its report, whether it loads and predicts, how long a request takes.

The champion is measured on the challenger's data: its own report is of older nights, so it is ranked again on the same viewers
and targets, and the comparison is paired.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mealrec.config import RunConfig
from mealrec.data.packed import Packed
from mealrec.evaluation.beyond import spread
from mealrec.evaluation.metrics import gains, hits, summarise
from mealrec.evaluation.ranking import Ranked, Scorer, model_scorer, rank_targets
from mealrec.evaluation.slices import slices
from mealrec.registry import flavour
from mealrec.registry.gate import Evidence, Values
from mealrec.registry.promotion import Version
from mealrec.registry.tracking import Tracker
from mealrec.serving.recommender import BundleError, Recommender
from mealrec.stages.evaluate import PER_VIEWER, REPORT

log = logging.getLogger("mealrec.promote")

PREDICT_VIEWERS, REQUESTS = 4, 40
Clock = Callable[[], float]


def report_of(tracker: Tracker, run_id: str) -> tuple[dict[str, Any], pa.Table]:
    """The evaluation report of a run and its ranks, one row a viewer. Cost: they are downloaded when the store is remote."""
    tracker.activate()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(tracker.client.download_artifacts(run_id, "evaluation", scratch))
        report: dict[str, Any] = json.loads((folder / REPORT).read_text())
        return report, pq.read_table(folder / PER_VIEWER)


def of_challenger(config: RunConfig, tracker: Tracker, version: Version, packed: Packed) -> Evidence:
    """From its own report, plus a load from the registry and REQUESTS timed requests, as a client would make them."""
    report, ranks = report_of(tracker, version.run_id)
    wrong, latency = _try_out(
        tracker, f"models:/{config.registry.model_name}/{version.version}", packed, time.perf_counter
    )
    return _reported(config, version, report, ranks, wrong, latency)


def of_champion(config: RunConfig, tracker: Tracker, version: Version, packed: Packed, data_digest: str) -> Evidence:
    """On the challenger's data: from its report when that is of the same data, else ranked again on `packed`. A champion
    that can't be loaded any more, or was trained under another protocol and so on what is held out now, is known by its old
    report alone."""
    report, ranks = report_of(tracker, version.run_id)
    there, here = (of.get("protocol", "leave-one-out") for of in (report["config"]["evaluate"], packed.meta))
    if there != here:
        log.warning(
            "champion version %s is of another protocol (%s, not %s): not ranked again", version.version, there, here
        )
        old = _reported(config, version, report, ranks, None, None)
        return replace(old, data_digest=f"{old.data_digest} {there}")  # the same tables, but other targets: no pairs
    if report["data_digest"] == data_digest:
        return _reported(config, version, report, ranks, None, None)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            bundle = flavour.bundle_of(
                tracker, f"models:/{config.registry.model_name}/{version.version}", Path(scratch)
            )
            ranked = rank_again(Recommender.load(bundle), packed)
    except BundleError as error:
        log.warning("champion version %s can't be ranked on this data: %s", version.version, error)
        return _reported(config, version, report, ranks, None, None)
    log.info("champion version %s ranked again on the challenger's data", version.version)
    return Evidence(
        version=version.version,
        metrics={"mealrec": summarise(torch.from_numpy(ranked.rank), config.evaluate.ks)},
        values={"mealrec": _values(config.registry.gate_metric, ranked.rank)},
        viewers=tuple(packed.user_ids(ranked.viewer)),
        data_digest=data_digest,
        loads=None,
        slices={name: int(rows.sum()) for name, rows in slices(packed, ranked.viewer, ranked.target).items()},
        coverage=spread(ranked.shown, packed.content.train_count().numpy())["coverage"],
    )


def rank_again(recommender: Recommender, packed: Packed) -> Ranked:
    """Rank the test targets of newer data by an older model. The item index is append-only, so its videos keep their numbers;
    newer ones are passed over in histories and never recommended: it does not know them."""
    known = len(recommender.video_ids)
    scorer = model_scorer(recommender.model, recommender.content.gather, recommender.catalogue)

    def score(history: Tensor) -> Tensor:
        old = scorer(torch.where(history <= known, history, 0))[:, : packed.items + 1]
        scores = old.new_full((len(old), packed.items + 1), -torch.inf)
        scores[:, : old.shape[1]] = old
        return scores

    checked: Scorer = score
    return rank_targets(checked, packed, "test", max_history=recommender.model.settings.max_history, exposure=True)


def _reported(
    config: RunConfig,
    version: Version,
    report: dict[str, Any],
    table: pa.Table,
    wrong: str | None,
    latency: float | None,
) -> Evidence:
    ranks = {n.removeprefix("rank_"): table[n].to_numpy() for n in table.column_names if n.startswith("rank_")}
    return Evidence(
        version=version.version,
        metrics=report["metrics"]["test"],
        values={name: _values(config.registry.gate_metric, rank) for name, rank in ranks.items()},
        viewers=tuple(table["user_id"].to_pylist()),
        data_digest=report["data_digest"],
        loads=wrong,
        slices={part["slice"]: part["viewers"] for part in report["slices"]},
        coverage=report["beyond"]["mealrec"]["coverage"],
        latency_ms=latency,
    )


def _try_out(tracker: Tracker, uri: str, packed: Packed, clock: Clock) -> tuple[str | None, float | None]:
    """What is wrong with the model (None: nothing) and the 95th percentile of a single request in ms."""
    ids = packed.item_ids()
    histories = [[ids[i - 1] for i in packed.history(v, "test")] for v in range(min(PREDICT_VIEWERS, packed.viewers))]
    try:
        model = flavour.load(tracker, uri)
        wrong = _mistake(model, histories)
        if wrong is not None:
            return wrong, None
        seconds = [_seconds(model, histories[n % len(histories)], clock) for n in range(REQUESTS)]
    except (BundleError, ValueError, OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", None
    return None, float(np.quantile(seconds, 0.95)) * 1000


def _mistake(model: Any, histories: Sequence[list[str]]) -> str | None:
    answer = flavour.predict(model, list(histories), 5)
    for history, recommended, scores in zip(histories, answer["video_ids"], answer["scores"], strict=True):
        if not recommended or set(recommended) & set(history):
            return "recommends nothing, or what was watched before"
        if not np.isfinite(scores).all():
            return "gives scores that are not finite"
    return None


def _seconds(model: Any, history: list[str], clock: Clock) -> float:
    began = clock()
    flavour.predict(model, [history], 5)
    return clock() - began


def _values(metric: str, rank: Any) -> Values:
    name, _, k = metric.partition("@")
    per_viewer = {"hr": hits, "ndcg": gains}[name]
    values: Values = per_viewer(torch.from_numpy(np.array(rank)), int(k)).numpy()
    return values
