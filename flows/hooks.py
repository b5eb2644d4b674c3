"""What a flow run that ended badly leaves behind: one line and one artifact that say stage, reason and next step, and no
MLflow run that looks as if it were still at work."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from mealrec.config import RunConfig, load
from mealrec.lake import Lake

ARTIFACT = "mealrec-failure"
LONGEST_REASON = 2000
# Prefect's state type: the MLflow status of what was left open, and what to do now
ENDINGS = {
    "FAILED": (
        "FAILED",
        "repair what the reason says, then start the deployment again: finished stages are up to date",
    ),
    "CRASHED": (
        "KILLED",
        "nothing to repair: start it again, or wait for the next schedule; it goes on where it stopped",
    ),
    "CANCELLED": (
        "KILLED",
        "somebody stopped it: start the deployment again when you want; it goes on where it stopped",
    ),
}


def ended_badly(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of on_failure, on_crashed and on_cancellation."""
    with get_client(sync_client=True) as client:
        close_up(client, flow_run, state)


ON: dict[str, Any] = {event: [ended_badly] for event in ("on_failure", "on_crashed", "on_cancellation")}


def close_up(client: SyncPrefectClient, flow_run: FlowRun, state: State[Any]) -> None:
    """Write the line and the artifact, then end the MLflow runs that this flow run left open."""
    status, next_step = ENDINGS[state.type.value if state.type.value in ENDINGS else "CANCELLED"]
    stage, reason = _where(client, flow_run, state)
    logger = flow_run_logger(flow_run)
    logger.error("%s in stage %s: %s. Next: %s", state.name, stage, reason.splitlines()[0], next_step)
    text = f"## {state.name} in stage `{stage}`\n\n**Reason:** {reason}\n\n**Next:** {next_step}\n"
    client.create_artifact(
        ArtifactCreate(
            key=ARTIFACT, type="markdown", data=text, description=f"{state.name}: {stage}", flow_run_id=flow_run.id
        )
    )
    for run in close_mlflow_runs(flow_run, status):
        logger.warning("MLflow run %s was left running: marked as %s", run, status)


def close_mlflow_runs(flow_run: FlowRun, status: str) -> list[str]:
    """End the MLflow runs that this flow run started and left running; returns their ids."""
    from mealrec.registry.tracking import Tracker  # imported when needed: a flow's import stays cheap

    given = (flow_run.parameters or {}).get("config")
    if given is None:
        return []
    config = given if isinstance(given, RunConfig) else load(given)
    return Tracker(config.registry, Lake(config.lake, config.work).work).close(str(flow_run.id), status)


def _where(client: SyncPrefectClient, flow_run: FlowRun, state: State[Any]) -> tuple[str, str]:
    """The stage that did not complete, and why."""
    mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    tasks = [t for t in client.read_task_runs(flow_run_filter=mine) if t.state is not None and t.start_time is not None]
    open_ = [t for t in tasks if t.state.type.value != "COMPLETED"]
    if not open_:
        return "(none had begun)" if not tasks else "(between stages)", (state.message or "no message")[:LONGEST_REASON]
    worst = min(open_, key=lambda t: (t.state.type.value != "FAILED", t.start_time))
    reason = worst.state.message if worst.state.type.value == "FAILED" else state.message
    return worst.name.rsplit("-", 1)[0], (reason or state.message or "no message")[:LONGEST_REASON]
