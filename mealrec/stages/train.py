"""Stage `train`: pinned tables to a model bundle, through Ray Train, tracked in MLflow."""

from __future__ import annotations

import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

from mealrec import __version__
from mealrec.claims import Overtaken
from mealrec.config import RunConfig, digest
from mealrec.data.pack import FORM, pack
from mealrec.data.packed import Packed
from mealrec.lake import Lake
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry.tracking import SUMMARY_TAG, Tracker
from mealrec.schema import FEATURES, ITEMS, SEQUENCES
from mealrec.stages.summary import StageError, StageSummary
from mealrec.stages.warm_start import beginning
from mealrec.training import bundle, checkpoint
from mealrec.training.loop import State
from mealrec.training.notice import Stopped
from mealrec.training.progress import STAGES
from mealrec.training.trainer import Job, TrainingError
from mealrec.training.trainer import train as train_distributed

log = logging.getLogger("mealrec.train")

ORIGIN_TAG = "mealrec.warm_start"


def train(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when tables and settings are those of a finished run whose bundle is there. A killed run resumes from its
    last checkpoint; so does one that got a SIGTERM, which first saves where it stands and then ends by the signal. Raises
    StageError with the worker's error."""
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    versions = pinned_versions(lake)
    made_from = train_digest(config, lake)
    tracker = Tracker(config.registry, lake.work)
    done = tracker.find("train", made_from)
    if done is not None and bundle_folder(lake, made_from).is_dir():
        log.info("up to date: model %s", made_from)
        return StageSummary.stored(json.loads(done.tags[SUMMARY_TAG]), None)
    claim = lake.claim("train", run_id)
    packed = packed_dataset(config, lake, versions)
    settings = model_settings(config, packed)
    name, storage = f"train-{made_from}", lake.folder("checkpoints")
    initial, origin = beginning(config, tracker, packed, settings, storage / f"{name}-initial")
    mlflow_run = _start(config, tracker, lake, versions, made_from, run_id)
    tracker.set_tags(mlflow_run, {ORIGIN_TAG: json.dumps(origin)})
    job = Job(
        name=name,
        storage=str(storage),
        packed=str(packed.root),
        settings=settings,
        config=config.train,
        seed=config.seed,
        initial=initial,
    )
    try:
        last = train_distributed(job, config.ray, log.info)
    except TrainingError as error:
        tracker.finish(mlflow_run, "FAILED")
        raise StageError(str(error)) from error
    except Stopped as stopped:
        tracker.finish(mlflow_run, "KILLED")
        signal.raise_signal(signal.SIGTERM)  # its workers are gone: now it is for whoever had it before
        raise StageError(str(stopped)) from stopped
    try:
        lake.check(claim)
    except Overtaken:
        tracker.finish(mlflow_run, "KILLED")
        raise
    curves = _write_bundle(lake, packed, settings, config, last, made_from)
    _log_curves(tracker, mlflow_run, curves)
    summary = StageSummary(
        stage="train",
        seconds=round(time.monotonic() - began, 3),
        rows_in=packed.viewers,
        rows_out=packed.viewers,
        details={
            "epochs": len(curves),
            "mlflow_run": mlflow_run,
            "model": made_from,
            "began": origin,
            **_last_figures(curves),
        },
    )
    tracker.set_tags(mlflow_run, {SUMMARY_TAG: json.dumps(summary.counts())})
    tracker.finish(mlflow_run)
    return summary


def pinned_versions(lake: Lake) -> dict[str, int]:
    """Newest versions of the tables that training reads."""
    return {table: lake.at(table).version() for table in (SEQUENCES, ITEMS, FEATURES)}


def train_digest(config: RunConfig, lake: Lake) -> str:
    protocol = config.evaluate.protocol
    return digest(
        "train", __version__, config.model, config.train, protocol, config.seed, pinned_versions(lake), lake.root
    )


def bundle_folder(lake: Lake, made_from: str) -> Path:
    return lake.folder("models") / made_from


def packed_dataset(config: RunConfig, lake: Lake, versions: dict[str, int]) -> Packed:
    """The packed dataset of these versions, built when it is not there yet."""
    title = config.model.tokens == "title"
    frames = config.features.text_tokens if title else config.features.frames
    protocol = config.evaluate.protocol
    key = digest(FORM, __version__, versions, config.model.tokens, frames, protocol, lake.root)
    folder = lake.folder("datasets") / key
    return Packed.open(
        pack(lake, versions, folder, tokens=config.model.tokens, frames=frames, say=log.info, protocol=protocol)
    )


def model_settings(config: RunConfig, packed: Packed) -> ModelSettings:
    """Shapes from the data, everything else from the configuration: the fields of ModelSettings that ModelConfig has."""
    chosen = {k: v for k, v in config.model.model_dump().items() if k in ModelSettings.__dataclass_fields__}
    return ModelSettings(**(chosen | packed.content.dims))


def _start(
    config: RunConfig, tracker: Tracker, lake: Lake, versions: dict[str, int], made_from: str, run_id: str
) -> str:
    tags = {"mealrec.code_version": __version__, "mealrec.run_id": run_id, "mealrec.lake": lake.root}
    mlflow_run = tracker.start("train", made_from, f"train-{made_from}", tags)
    tracker.log_params(mlflow_run, config.model_dump(mode="json"))
    tracker.log_inputs(mlflow_run, versions, lake.root)
    return mlflow_run


def _write_bundle(
    lake: Lake, packed: Packed, settings: ModelSettings, config: RunConfig, last: Path, made_from: str
) -> list[dict[str, Any]]:
    """The best epoch of the last stage becomes the model."""
    state: State = checkpoint.load(last, settings, config.train.settings())
    model = MealRec(settings)
    model.load_state_dict(state.best)
    bundle.write(model, packed, bundle_folder(lake, made_from))
    (bundle_folder(lake, made_from) / "curves.json").write_text(json.dumps(state.progress.curves))
    return state.progress.curves


def _log_curves(tracker: Tracker, mlflow_run: str, curves: list[dict[str, Any]]) -> None:
    now = int(time.time() * 1000)
    for entry in curves:
        numbers = {f"{entry['stage']}.{k}": v for k, v in entry.items() if isinstance(v, float)}
        tracker.log_metrics(mlflow_run, numbers, step=entry["epoch"], timestamp_ms=now)


def _last_figures(curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Best validation NDCG@10 of each stage."""
    best = {s: [c["ndcg@10"] for c in curves if c["stage"] == s] for s in STAGES}
    return {"valid_ndcg@10": {stage: round(max(values), 5) for stage, values in best.items() if values}}
