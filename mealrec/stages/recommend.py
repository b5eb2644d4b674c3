"""Stage `recommend`: top K of every viewer from the registered model to the `recommendations` table."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

import torch

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.features.extract import write_part
from mealrec.lake import SUMMARY_KEY, Lake, Provenance
from mealrec.registry import flavour, promotion
from mealrec.registry.tracking import Tracker
from mealrec.schema import RECOMMENDATIONS, SEQUENCES
from mealrec.serving.batch import recommend_all
from mealrec.serving.recommender import Recommender
from mealrec.stages.summary import StageError, StageSummary

log = logging.getLogger("mealrec.recommend")

SAY_EVERY_S = 5.0


def recommend(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when the alias, `sequences` and k are those of the last commit. Raises StageError without a model."""
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    tracker = Tracker(config.registry, lake.work)
    name, alias = config.registry.model_name, config.recommend.alias
    model = promotion.by_alias(tracker, alias)
    if model is None:
        raise StageError(
            f"models:/{name}@{alias} does not exist: no version has passed the gate yet (`mealrec promote`)"
        )
    sequences = lake.at(SEQUENCES).version()
    made_from = digest(
        "recommend", __version__, name, model.version, model.run_id, sequences, config.recommend, config.index
    )
    done = lake.committed(RECOMMENDATIONS, "recommend", made_from)
    if done is not None:
        log.info("up to date: %s version %d", RECOMMENDATIONS, done.version)
        return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
    claim = lake.claim("recommend", run_id, RECOMMENDATIONS)
    torch.set_num_threads(config.ray.num_cpus)
    with tempfile.TemporaryDirectory() as scratch:
        # by version: the alias may have moved since it was read
        bundle = flavour.bundle_of(tracker, f"models:/{name}/{model.version}", Path(scratch))
        recommender = Recommender.load(bundle)
        recommender.use(config.index)
        parts, viewers = _write(lake, sequences, recommender, config.recommend.k, model.version, made_from)
    summary = StageSummary(
        stage="recommend",
        seconds=round(time.monotonic() - began, 3),
        rows_in=viewers,
        rows_out=viewers,
        table=RECOMMENDATIONS,
        details={"model_version": model.version, "k": config.recommend.k},
    )
    made = Provenance("recommend", made_from, run_id, {SEQUENCES: sequences}, summary.counts(), claim)
    replaced = [("model_version", "=", model.version)]
    version = lake.commit_files(RECOMMENDATIONS, parts, made, mode="overwrite", partition_filters=replaced)
    log.info(
        "committed %s version %d: %d viewers by model version %s", RECOMMENDATIONS, version, viewers, model.version
    )
    return summary.model_copy(update={"version": version})


def _write(
    lake: Lake, sequences: int, recommender: Recommender, k: int, version: str, made_from: str
) -> tuple[list[str], int]:
    parts, viewers, said = [], 0, time.monotonic()
    for number, rows in enumerate(recommend_all(lake, sequences, recommender, k, version)):
        part = f"model_version={version}/part-{made_from}-{number}.parquet"
        write_part(lake, RECOMMENDATIONS, part, rows.drop_columns(["model_version"]).to_pylist())
        parts.append(part)
        viewers += rows.num_rows
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            log.info("%d viewers done", viewers)
    return parts, viewers
