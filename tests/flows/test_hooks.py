"""What a flow run that ended badly leaves behind, in a real Prefect and a real MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.runtime import flow_run
from prefect.states import Cancelled, Crashed, State

from flows import hooks
from mealrec.config import RunConfig
from mealrec.lake import Lake
from mealrec.registry.tracking import RUN_TAG, Tracker
from mealrec.stages.summary import StageError
from tests.integration.runs import artifacts, logs
from tests.integration.servers import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(lake=str(tmp_path / "lake"))


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as made:
        yield made


def tracker(config: RunConfig) -> Tracker:
    return Tracker(config.registry, Lake(config.lake, config.work).work)


def opened(config: RunConfig) -> str:
    """An MLflow run that this flow run has begun and not ended."""
    return tracker(config).start("train", "digest", "left", {RUN_TAG: str(flow_run.id)})


def status(config: RunConfig, run: str) -> str:
    return str(tracker(config).client.get_run(run).info.status)


def test_a_failed_run_names_stage_reason_and_next_step_and_ends_its_mlflow_run(
    config: RunConfig, client: SyncPrefectClient
) -> None:
    told: dict[str, str] = {}

    @task(name="train")
    def train(config: RunConfig) -> None:
        told["mlflow"] = opened(config)
        raise StageError("3 of 4 videos were rejected")

    @flow(name="mealrec-failing", persist_result=False, **hooks.ON)
    def failing(config: RunConfig) -> None:
        told["flow"] = str(flow_run.id)
        train(config)

    assert failing(config, return_state=True).is_failed()
    (note,) = artifacts(client, told["flow"], hooks.ARTIFACT)
    assert "Failed in stage `train`" in note.data and "3 of 4 videos were rejected" in note.data
    assert "**Next:** repair what the reason says" in note.data
    assert status(config, told["mlflow"]) == "FAILED"
    words = ("in stage train", "3 of 4 videos were rejected", "Next: repair")
    until(
        lambda: any(all(w in line for w in words) for line in logs(client, told["flow"])), "the line in the run's log"
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (Crashed(message="Orphaned: its process is gone."), ("its process is gone", "nothing to repair")),
        (Cancelled(message="by somebody"), ("by somebody", "somebody stopped it")),
    ],
)
def test_a_crashed_and_a_cancelled_run_say_so_and_their_mlflow_run_counts_as_killed(
    config: RunConfig, client: SyncPrefectClient, state: State[None], words: tuple[str, ...]
) -> None:
    told: dict[str, str] = {}

    @flow(name="mealrec-stopped", persist_result=False)
    def stopped(config: RunConfig) -> None:
        told.update(flow=str(flow_run.id), mlflow=opened(config))

    stopped(config)
    hooks.close_up(client, client.read_flow_run(told["flow"]), state)
    (note,) = artifacts(client, told["flow"], hooks.ARTIFACT)
    assert all(word in note.data for word in words) and note.data.startswith(f"## {state.name} in stage")
    assert status(config, told["mlflow"]) == "KILLED"
