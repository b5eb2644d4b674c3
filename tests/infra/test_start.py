"""The hand-start scripts: real PostgreSQL, Prefect server, MLflow server and worker, stopped, killed and started again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient

from mealrec.config import RunConfig
from tests.integration.servers import START, Stack, stack, until

DEPLOYMENTS = {"nightly", "weekly-full", "backfill", "promote", "adhoc", "sweep", "vacuum"}
SCRIPTS = sorted(p.stem for p in START.glob("*.py") if p.stem != "foreground")


def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(START / f"{script}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(script: str) -> None:
    done = call(script, "--help")
    assert done.returncode == 0 and "ready " in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("postgres", ["--port", "5433"], "PGPASSWORD"),
        ("prefect_server", ["--host", "0.0.0.0"], "PREFECT_SERVER_API_AUTH_STRING"),
        ("mlflow_server", ["--host", "0.0.0.0", "--backend", "sqlite://"], "--auth"),
        ("mlflow_server", [], "--backend is missing"),
    ],
)
def test_a_server_that_others_could_use_unasked_is_refused(
    script: str, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGPASSWORD", "PREFECT_SERVER_API_AUTH_STRING", "MLFLOW_BACKEND_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    done = call(script, *arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with stack() as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_deployment_is_accepted_and_the_nights_have_their_schedule_and_form(servers: Stack) -> None:
    servers.worker()
    with SyncPrefectClient(api=servers.api) as client:
        deployments = {d.name: d for d in client.read_deployments()}
    assert set(deployments) == DEPLOYMENTS
    schedules = {n: [(s.schedule.cron, s.schedule.timezone) for s in d.schedules] for n, d in deployments.items()}
    assert {n: s for n, s in schedules.items() if s} == {
        "nightly": [("30 2 * * *", "Europe/Berlin")],
        "weekly-full": [("0 6 * * 0", "Europe/Berlin")],
        "vacuum": [("0 14 * * 0", "Europe/Berlin")],
    }
    for name in ("nightly", "weekly-full", "backfill"):
        assert deployments[name].global_concurrency_limit.limit == 1
        assert deployments[name].concurrency_options.collision_strategy.value == "CANCEL_NEW"
        given = RunConfig.model_validate(deployments[name].parameters["config"])
        assert given.registry.tracking_uri == "http://127.0.0.1:5000", "where infra/start/mlflow_server.py listens"
    assert deployments["weekly-full"].parameters["full"] is True
    assert {"first", "last"} <= set(deployments["backfill"].parameter_openapi_schema["required"])
    form = deployments["nightly"].parameter_openapi_schema["definitions"]
    assert {"RunConfig", "TrainConfig", "SessionizeConfig"} <= set(form)
    assert form["TrainConfig"]["properties"]["workers"]["description"].startswith("Ray Train workers")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_servers_leave_nothing_running_and_start_again_on_their_data(servers: Stack) -> None:
    servers.mlflow()
    servers.worker()
    experiment = MlflowClient(servers.tracking_uri).create_experiment("kept")
    started = [p for running in servers.running.values() for p in running.servers()]
    assert len(started) >= 4
    for running in servers.running.values():
        running.process.kill()  # the script alone: what it started must end with it
        running.process.wait(30)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
    servers.mlflow()
    assert MlflowClient(servers.tracking_uri).get_experiment(experiment).name == "kept"
    servers.worker("--no-deploy")
    with SyncPrefectClient(api=servers.api) as client:
        assert client.read_work_pool("mealrec").type == "process"
        assert {d.name for d in client.read_deployments()} == DEPLOYMENTS


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_script_whose_server_dies_ends_with_status_1_and_one_that_is_told_to_stop_with_0(servers: Stack) -> None:
    mlflow = servers.mlflow()
    for process in mlflow.servers():
        process.kill()
    assert mlflow.process.wait(30) == 1
    assert "ended with status" in mlflow.said()
    assert servers.mlflow().stop() == 0
    postgres = servers.postgres()
    stopped = postgres.servers()
    assert postgres.stop() == 0
    until(lambda: not any(p.is_running() for p in stopped), "PostgreSQL gone")
