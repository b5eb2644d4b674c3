"""Log a model bundle as an MLflow pyfunc (models from code) and load it back from the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from mealrec import __version__
from mealrec.registry.tracking import Tracker

CODE = Path(__file__).with_name("pyfunc_model.py")
ARTIFACT = "model"
REQUIREMENTS = [f"mealrec=={__version__}"]


def log_model(tracker: Tracker, run_id: str, bundle: Path) -> str:
    """Log the bundle under the run; returns the URI to register. No pickle is written.

    The run stays as it is: mlflow.pyfunc.log_model would open it again, and a process that ends meanwhile would leave a run
    that looks as if it had never finished."""
    tracker.activate()
    mlflow.set_experiment(experiment_id=tracker.experiment_id)  # without an active run a model would go to Default's
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "history"), ColSpec(DataType.long, "k", required=False)]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.string), "video_ids"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(Array(DataType.long), "moments_ms"),
                ColSpec(DataType.long, "unknown"),
            ]
        ),
    )
    info = Model.log(
        artifact_path=None,
        flavor=mlflow.pyfunc,
        run_id=run_id,
        name=ARTIFACT,
        python_model=str(CODE),
        artifacts={"bundle": str(bundle)},
        signature=signature,
        pip_requirements=REQUIREMENTS,
    )
    return str(info.model_uri)


def load(tracker: Tracker, uri: str) -> Any:
    """mlflow.pyfunc.load_model from this store, e.g. models:/mealrec@champion."""
    tracker.activate()
    return mlflow.pyfunc.load_model(uri)


def bundle_of(tracker: Tracker, uri: str, scratch: Path) -> Path:
    """The bundle folder of a registered model, downloaded when the store is remote."""
    tracker.activate()
    folder = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(scratch))
    return next(p.parent for p in Path(folder).rglob("bundle.json"))


def predict(model: Any, histories: list[list[str]], k: int) -> pd.DataFrame:
    """Predict through the pyfunc interface, as a client would."""
    frame = pd.DataFrame({"history": [json.dumps(h) for h in histories], "k": [k] * len(histories)})
    out: pd.DataFrame = model.predict(frame)
    return out
