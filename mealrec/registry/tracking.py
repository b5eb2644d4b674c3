"""Runs in MLflow through an explicit client and explicit run ids: nothing depends on a global active run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# before mlflow is imported: nothing is reported, nothing is unpickled
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # whatever the environment of the caller says
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from mealrec.config import RegistryConfig
from mealrec.redaction import redact

STAGE_TAG, DIGEST_TAG, RUN_TAG = "mealrec.stage", "mealrec.digest", "mealrec.run_id"
EVALUATED_TAG, SUMMARY_TAG = "mealrec.evaluation_digest", "mealrec.summary"
VERSION_TAG = "mealrec.version."  # and a table's name: the version of it that a run read
LONGEST_VALUE = 500


@dataclass(frozen=True)
class RunRecord:
    """A run as it stands in the store."""

    run_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


class Tracker:
    """One tracking store and experiment. Default: SQLite and artifacts under the run's work folder."""

    def __init__(self, config: RegistryConfig, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.config = config
        self.uri = config.tracking_uri or f"sqlite:///{work / 'mlflow.db'}"
        self.client = MlflowClient(self.uri, registry_uri=self.uri)
        found = self.client.get_experiment_by_name(config.experiment)
        if found is not None:
            self.experiment_id = found.experiment_id
        else:
            location = None if config.tracking_uri else (work / "mlartifacts").as_uri()
            self.experiment_id = self.client.create_experiment(config.experiment, artifact_location=location)

    def activate(self) -> None:
        """Point MLflow's module-level calls (model logging and loading) at this store."""
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)

    def find(self, stage: str, digest: str) -> RunRecord | None:
        """The newest finished run of a stage with this digest."""
        query = (
            f"tags.`{STAGE_TAG}` = '{stage}' and tags.`{DIGEST_TAG}` = '{digest}' and attributes.status = 'FINISHED'"
        )
        runs = self.client.search_runs(
            [self.experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"]
        )
        return self._record(runs[0]) if runs else None

    def run(self, run_id: str) -> RunRecord:
        return self._record(self.client.get_run(run_id))

    def start(self, stage: str, digest: str, name: str, tags: Mapping[str, str] | None = None) -> str:
        """A new run. Runs of the same digest still marked as running were left by a killed process: they are closed."""
        query = f"tags.`{STAGE_TAG}` = '{stage}' and tags.`{DIGEST_TAG}` = '{digest}' and attributes.status = 'RUNNING'"
        for left in self.client.search_runs([self.experiment_id], query):
            self.client.set_terminated(left.info.run_id, "KILLED")
        own = {STAGE_TAG: stage, DIGEST_TAG: digest, **{k: redact(v) for k, v in (tags or {}).items()}}
        return str(self.client.create_run(self.experiment_id, run_name=name, tags=own).info.run_id)

    def close(self, flow_run: str, status: str) -> list[str]:
        """End the runs that a flow run (tag mealrec.run_id) left running; returns their ids."""
        query = f"tags.`{RUN_TAG}` = '{flow_run}' and attributes.status = 'RUNNING'"
        left = [run.info.run_id for run in self.client.search_runs([self.experiment_id], query)]
        for run_id in left:
            self.client.set_terminated(run_id, status)
        return left

    def log_params(self, run_id: str, settings: Mapping[str, Any]) -> None:
        """Nested settings as dotted parameters; secrets are blotted out, here and in tags."""
        flat = {k: redact(str(v))[:LONGEST_VALUE] for k, v in _flatten(settings).items()}
        self.client.log_batch(run_id, params=[Param(k, v) for k, v in flat.items()])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int, timestamp_ms: int) -> None:
        """Names may hold @, which MLflow does not allow: hr@10 is stored as hr_at_10."""
        values = [Metric(metric_name(k), float(v), timestamp_ms, step) for k, v in metrics.items()]
        self.client.log_batch(run_id, metrics=values)

    def log_inputs(self, run_id: str, versions: Mapping[str, int], lake_root: str) -> None:
        """Which version of which table the run read: dataset inputs and tags."""
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource
        from mlflow.entities import DatasetInput, InputTag

        inputs = []
        for table, version in versions.items():
            source = LocalArtifactDatasetSource(redact(f"{lake_root}/{table}"))
            dataset = MetaDataset(source, name=f"{table}@{version}", digest=f"v{version}")
            inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")]))
        self.client.log_inputs(run_id, datasets=inputs)
        self.set_tags(run_id, {f"{VERSION_TAG}{table}": str(version) for table, version in versions.items()})

    def log_artifacts(self, run_id: str, folder: Path, path: str) -> None:
        self.client.log_artifacts(run_id, str(folder), path)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.client.log_text(run_id, text, path)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(k, redact(v)) for k, v in tags.items()])

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def _record(self, run: Any) -> RunRecord:
        return RunRecord(run.info.run_id, dict(run.data.tags), dict(run.data.metrics))


def metric_name(name: str) -> str:
    return name.replace("@", "_at_")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            out |= _flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
