"""Flow runs as a test sees them through the API."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.sorting import FlowRunSort, LogSort

TERMINAL = ("COMPLETED", "FAILED", "CRASHED")


def runs_of(client: SyncPrefectClient, deployment: str) -> list[Any]:
    """Runs of a deployment that have begun, newest first."""
    named = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
    runs = client.read_flow_runs(deployment_filter=named, sort=FlowRunSort.START_TIME_DESC)
    return [run for run in runs if run.start_time is not None]


def started(client: SyncPrefectClient, deployment: str) -> Any:
    """The newest run that is Running, None when there is none."""
    return next((r for r in runs_of(client, deployment) if r.state_type.value == "RUNNING"), None)


def finished(client: SyncPrefectClient, deployment: str, after: Any = None) -> Any:
    """The first run that began after the run `after` and has come to an end that is not a cancellation."""
    runs = [r for r in runs_of(client, deployment) if after is None or r.start_time > after.start_time]
    return next((r for r in reversed(runs) if r.state_type.value in TERMINAL), None)


def logs(client: SyncPrefectClient, flow_run: Any) -> list[str]:
    """Every line of a flow run's log, oldest first."""
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run]))
    lines: list[str] = []
    while page := client.read_logs(chosen, limit=200, offset=len(lines), sort=LogSort.TIMESTAMP_ASC):
        lines += [entry.message for entry in page]
    return lines


def artifacts(client: SyncPrefectClient, flow_run: Any, key: str | None = None) -> list[Any]:
    """Artifacts of a flow run (those with `key`, when given)."""
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
    found = client.read_artifacts(artifact_filter=ArtifactFilter(), flow_run_filter=mine)
    return [a for a in found if key is None or a.key == key]
