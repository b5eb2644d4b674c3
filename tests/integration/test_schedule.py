"""A schedule on real servers: PostgreSQL, Prefect, MLflow and a worker. The worker is killed in its first night; the next run
that the schedule starts ends in a promoted model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from deltalake import DeltaTable
from mlflow.tracking import MlflowClient
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Crashed, Running

from mealrec.claims import CLAIMS
from mealrec.lake import Lake
from mealrec.schema import RECOMMENDATIONS
from tests.integration.runs import artifacts, finished, logs, runs_of, started
from tests.integration.servers import ROOT, Stack, stack, until
from tests.small_world import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.ray, pytest.mark.media, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def alerts() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook on loopback, and what it was told."""
    told: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/told", told
    server.shutdown()
    server.server_close()


def deployments(folder: Path, tracking_uri: str) -> Path:
    """The project's prefect.yaml with a tiny simulated platform, and a night every twenty seconds."""
    found = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    config: dict[str, Any] = {"lake": str(folder / "lake"), "source": {"kind": "simulated"}}
    for setting in (*SMALL, f'registry.tracking_uri="{tracking_uri}"'):
        path, _, value = setting.partition("=")
        section, _, key = path.partition(".")
        config.setdefault(section, {})[key] = json.loads(value)
    for deployment in found["deployments"]:
        if "config" in deployment.get("parameters", {}):
            deployment["parameters"]["config"] = config
        deployment.pop("schedules", None)
        if deployment["name"] == "nightly":
            deployment["schedules"] = [{"interval": 20, "active": True}]
    path = folder / "prefect.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


@pytest.fixture(scope="module")
def night(alerts: tuple[str, list[dict[str, Any]]]) -> Iterator[Stack]:
    with stack() as servers:
        servers.mlflow()
        servers.prefect()
        install = [sys.executable, "-m", "flows.alerts", "--hours", str(10 / 3600)]
        environment = dict(os.environ) | servers.environment | {"MEALREC_ALERT_WEBHOOK": alerts[0]}
        done = subprocess.run(install, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert alerts[0] not in done.stdout + done.stderr
        servers.worker("--file", str(deployments(servers.folder, servers.tracking_uri)))
        yield servers


def at_work(night: Stack, stage: str) -> bool:
    """Whether the stage has begun to work: it has claimed its right to commit."""
    claims = str(night.folder / "lake" / CLAIMS)
    return DeltaTable.is_deltatable(claims) and DeltaTable(claims).transaction_version(stage) is not None


@pytest.fixture(scope="module")
def crashed(night: Stack) -> Any:
    """The first run of the schedule, whose worker was killed with all that it had started."""
    with SyncPrefectClient(api=night.api) as client:
        run = until(lambda: started(client, "nightly"), "the schedule fires")
        until(lambda: at_work(night, "sessionize"), "it is at work", timeout_s=240)
        night.worker().kill()
        left = client.read_flow_run(run.id)
        assert left.state_type.value == "RUNNING", "nobody was left to say that it ended"
        night.worker("--no-deploy")
        return client.read_flow_run(run.id)


def test_a_run_that_a_dead_worker_left_is_swept_when_a_worker_starts(night: Stack, crashed: Any) -> None:
    assert crashed.state_type.value == "CRASHED"
    assert "its process is gone" in crashed.state.message
    with SyncPrefectClient(api=night.api) as client:
        (note,) = artifacts(client, crashed.id, "mealrec-failure")
        assert "Crashed in stage" in note.data and "it goes on where it stopped" in note.data
        assert any("Next: nothing to repair" in line for line in logs(client, crashed.id))


def test_the_next_scheduled_run_ends_in_a_promoted_model(night: Stack, crashed: Any) -> None:
    with SyncPrefectClient(api=night.api) as client:
        run = until(lambda: finished(client, "nightly", after=crashed), "a night completes", timeout_s=900)
        assert run.state_type.value == "COMPLETED", run.state
        assert run.auto_scheduled
    champion = MlflowClient(night.tracking_uri).get_model_version_by_alias("mealrec", "champion")
    assert champion.tags["mealrec.gate"] == "passed"
    assert champion.tags["mealrec.run_id"] == str(run.id)
    served = Lake(str(night.folder / "lake")).read(RECOMMENDATIONS)
    assert set(served["model_version"].to_pylist()) == {str(champion.version)}
    summary = json.loads((night.folder / "lake" / "summary.json").read_text())
    assert summary["truth"]["equal"], summary["truth"]


def test_the_run_shows_its_figures_links_and_progress(night: Stack, crashed: Any) -> None:
    with SyncPrefectClient(api=night.api) as client:
        (run,) = [r for r in runs_of(client, "nightly") if r.state_type.value == "COMPLETED"][:1]
        made = {a.key: a for a in artifacts(client, run.id)}
    assert {"mealrec-summary", "mealrec-metrics", "mealrec-report", "mealrec-mlflow-run"} <= set(made)
    assert "popularity" in str(made["mealrec-metrics"].data)
    assert night.tracking_uri in made["mealrec-mlflow-run"].data
    assert made["mealrec-extract"].data == made["mealrec-train"].data == 100


def test_the_lines_of_spark_and_of_rays_workers_are_in_the_runs_log(night: Stack, crashed: Any) -> None:
    with SyncPrefectClient(api=night.api) as client:
        (run,) = [r for r in runs_of(client, "nightly") if r.state_type.value == "COMPLETED"][:1]
        lines = logs(client, run.id)
    assert any("to quarantine" in line for line in lines), "said by the Spark driver"
    assert any(line.startswith("joint epoch 3/3:") for line in lines), "said by a Ray Train worker"
    assert any(line.startswith("worker: ") and "rejected: " in line for line in lines), (
        "said by an extracting Ray actor"
    )


@flow(name="mealrec-crashing")
def crashing() -> None:
    """Never really run: the test sets its states."""


def test_a_crash_and_a_missing_night_reach_the_webhook(night: Stack, alerts: tuple[str, list[dict[str, Any]]]) -> None:
    """The run is not one of the schedule's: Prefect holds back the events of a run that was scheduled less than five minutes
    before it began, for up to a quarter of an hour."""

    def told(*words: str) -> bool:
        return any(all(word in heard["text"] for word in words) for heard in alerts[1])

    with SyncPrefectClient(api=night.api) as client:
        run = client.create_flow_run(crashing)
        for state in (Running(), Crashed(message="on purpose")):
            client.set_flow_run_state(run.id, state, force=True)
    try:
        until(lambda: told("mealrec: a run ended badly", run.name, "Crashed"), "the crash was told")
        until(lambda: told("mealrec: no good night"), "the missing night was told")
    except AssertionError as error:
        raise AssertionError(f"{error}; told were: {sorted({heard['text'] for heard in alerts[1]})}") from None
