"""Two nights on a team's servers: PostgreSQL, Prefect, MLflow, a worker and a Ray cluster of three nodes, started by hand as
infra/README.md says. In the first night everything that can die is killed once; the schedule still ends in a promoted model.
In the second there is a new day with new and broken videos. Then a worse model is refused, and a rollback takes place while
requests run.

The tests are chapters of one story: each goes on where the one before it ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pytest
import yaml
from deltalake import DeltaTable
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName, FlowRunFilter

from mealrec.claims import CLAIMS
from mealrec.config import RunConfig
from mealrec.lake import Lake
from mealrec.registry import trail
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, QUARANTINE, RECOMMENDATIONS, SEQUENCES
from mealrec.sources.simulated.truth import Truth
from tests.integration.asking import Asking
from tests.integration.ray_nodes import Cluster
from tests.integration.runs import artifacts, finished, logs, runs_of, started
from tests.integration.servers import ROOT, Stack, free_port, stack, until

pytestmark = [pytest.mark.night, pytest.mark.spark, pytest.mark.ray, pytest.mark.media, pytest.mark.timeout(2400)]

VIDEOS, VIEWERS, DAYS = 24, 200, 6
SETTINGS: dict[str, dict[str, Any]] = {
    "sessionize": {"earliest": "2026-01-01", "latest": "2026-03-01"},  # as the simulated platform's truth has it
    # and its viewers soon have seen every video: no day is like the one before
    "profile": {name: {"warn": 1, "alarm": 99} for name in ("psi", "share", "fall", "growth")},
    "features": {"frames": 4},
    "model": {"width": 32},
    "train": {"warmup_epochs": 12, "joint_epochs": 3, "batch_size": 32},
    # so small a world has no baseline to beat for sure, and a busy machine answers as slowly as it likes
    "registry": {"baselines": [], "max_latency_ms": 60_000},
    "serve": {"poll_s": 0.5},
}


def simulate(landing: Path, *more: str) -> None:
    size = ["--videos", str(VIDEOS), "--viewers", str(VIEWERS), "--days", str(DAYS)]
    command = [sys.executable, "-m", "mealrec.cli", "simulate", str(landing), *size, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


class Night:
    """The servers, where everything lies, and how to look at it."""

    def __init__(self, servers: Stack, ray: Cluster) -> None:
        self.servers, self.ray = servers, ray
        self.landing, self.root = servers.folder / "landing", servers.folder / "lake"
        self.config: dict[str, Any] = SETTINGS | {
            "lake": str(self.root),
            "source": {"kind": "landing", "directory": str(self.landing)},
            "registry": SETTINGS["registry"] | {"tracking_uri": servers.tracking_uri},
            "ray": {"address": ray.gcs},
        }
        self.file = servers.folder / "config.json"
        self.file.write_text(json.dumps(self.config))

    @property
    def lake(self) -> Lake:
        return Lake(str(self.root))

    def deployments(self) -> Path:
        """The project's prefect.yaml with this configuration, and a night every 45 seconds."""
        found = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        for deployment in found["deployments"]:
            if "config" in deployment.get("parameters", {}):
                deployment["parameters"]["config"] = self.config
            deployment.pop("schedules", None)
            if deployment["name"] == "nightly":
                deployment["schedules"] = [{"interval": 45, "active": True}]
        path = self.servers.folder / "prefect.yaml"
        path.write_text(yaml.safe_dump(found))
        return path

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(api=self.servers.api)

    def claimed(self, stage: str) -> int:
        """How often the stage has begun to work."""
        claims = str(self.root / CLAIMS)
        return (DeltaTable(claims).transaction_version(stage) or 0) if DeltaTable.is_deltatable(claims) else 0

    def champion(self) -> str | None:
        return trail.read(self.lake, "mealrec").champion

    def lists_are_fresh(self) -> bool:
        """Whether every viewer has a list made by the champion."""
        lake, champion = self.lake, self.champion()
        if champion is None or not lake.exists(RECOMMENDATIONS):
            return False
        made = lake.read(RECOMMENDATIONS, filters=pc.field("model_version") == champion)["user_id"].to_pylist()
        return sorted(made) == sorted(lake.read(SEQUENCES)["user_id"].to_pylist())

    def mealrec(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "mealrec.cli", *arguments, "--config", str(self.file), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def night() -> Iterator[Night]:
    with stack() as servers, contextlib.ExitStack() as ends:
        ray = Cluster()
        ends.callback(ray.stop)
        ray.grow_to(3)
        told = pytest.MonkeyPatch()
        ends.callback(told.undo)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):  # of the worker and of every command below
            told.setenv(name, ray.env[name])
        told.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")  # else its clients wait for up to two minutes
        made = Night(servers, ray)
        simulate(made.landing)
        servers.mlflow()
        servers.worker("--file", str(made.deployments()))
        yield made


def kill_the_spark_driver(night: Night) -> None:
    """The JVM and the Python beside it, in the middle of the job."""

    def driver() -> list[psutil.Process]:
        found = []
        for process in psutil.Process(night.servers.worker().process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "run_sessionize" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    for process in until(driver, "the Spark driver runs", timeout_s=120, every_s=0.05):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)


def kill_a_ray_node(night: Night) -> None:
    night.ray.nodes()[0].kill()
    night.ray.grow_to(3)


def kill_mlflow(night: Night) -> None:
    night.servers.running["mlflow_server"].kill()
    night.servers.mlflow()


def kill_prefect(night: Night) -> None:
    night.servers.running["prefect_server"].kill()
    night.servers.prefect()


def kill_the_worker(night: Night) -> None:
    """With all that it started; nobody is left to say that the run ended, until the next worker starts."""
    with night.client() as client:
        run = until(lambda: started(client, "nightly"), "a run is at work")
        night.servers.worker().kill()
        assert client.read_flow_run(run.id).state_type.value == "RUNNING"
        night.servers.worker("--no-deploy")
        swept = client.read_flow_run(run.id)
        assert swept.state_type.value == "CRASHED" and "its process is gone" in swept.state.message
        (note,) = artifacts(client, run.id, "mealrec-failure")
        assert "Crashed in stage" in note.data and "it goes on where it stopped" in note.data
        assert any("Next: nothing to repair" in line for line in logs(client, run.id))


# what dies when which stage has begun to work; each is started again as a supervisor would
DEATHS: tuple[tuple[str, Callable[[Night], None]], ...] = (
    ("sessionize", kill_the_spark_driver),
    ("extract", kill_a_ray_node),
    ("train", kill_mlflow),
    ("evaluate", kill_prefect),
    ("promote", kill_the_worker),
)


def test_a_night_in_which_everything_dies_once_ends_in_a_promoted_model(night: Night) -> None:
    for stage, kill in DEATHS:
        until(lambda stage=stage: night.claimed(stage), f"{stage} is at work", timeout_s=600, every_s=0.05)
        kill(night)
    until(night.lists_are_fresh, "a champion and its lists", timeout_s=600)
    champion = MlflowClient(night.servers.tracking_uri).get_model_version_by_alias("mealrec", "champion")
    assert (str(champion.version), champion.tags["mealrec.gate"]) == ("1", "passed")


def whole(night: Night) -> None:
    """No half table, no lost row, no row twice: the tables hold just what was planted."""
    lake, truth = night.lake, Truth.load(night.landing)
    rejected = lake.read(QUARANTINE, columns=["stage", "reason", "key"])
    found: dict[str, Counter[str]] = {"sessionize": Counter(), "extract": Counter()}
    for row in rejected.to_pylist():
        found[row["stage"]][row["reason"]] += 1
    assert {stage: dict(sorted(counts.items())) for stage, counts in found.items()} == truth.quarantine
    events = lake.read(INTERACTIONS, columns=["event_id"])["event_id"]
    assert len(events) == pc.count_distinct(events).as_py() == truth.rows["written"] - sum(found["sessionize"].values())
    described = lake.read(FEATURES, columns=["video_id"])["video_id"].to_pylist()
    broken = [row["key"] for row in rejected.to_pylist() if row["stage"] == "extract"]
    assert sorted(described + broken) == sorted(lake.read(ITEMS)["video_id"].to_pylist())


def test_no_table_is_half_and_no_version_is_there_twice(night: Night) -> None:
    whole(night)
    versions = MlflowClient(night.servers.tracking_uri).search_model_versions("name = 'mealrec'")
    assert len(versions) == len({v.tags["mealrec.evaluation_digest"] for v in versions})


@pytest.fixture(scope="module")
def endpoint(night: Night) -> Iterator[str]:
    """`mealrec serve` on the champion, an own local Ray."""
    port = free_port()
    command = [sys.executable, "-m", "mealrec.cli", "serve", "--config", str(night.file), "--port", str(port)]
    log = night.servers.folder / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--set", "ray.address=null", "--set", "ray.num_cpus=1"], stdout=out, stderr=out, cwd=ROOT
        )
    address = f"http://127.0.0.1:{port}"
    until(lambda: process.poll() is not None or address in log.read_text(), "the endpoint is up", timeout_s=180)
    assert process.poll() is None, log.read_text()[-3000:]
    yield address
    process.terminate()
    assert process.wait(60) == 0


def test_the_second_night_has_a_new_day_new_videos_and_broken_ones(night: Night) -> None:
    before, items = night.champion(), night.lake.read(ITEMS).num_rows
    told = len(trail.read(night.lake, "mealrec").entries)
    simulate(night.landing, "--more-days", "1")
    until(lambda: night.lake.read(ITEMS).num_rows > items, "the new videos are known", timeout_s=600)
    with night.client() as client:
        newest = started(client, "nightly") or runs_of(client, "nightly")[0]
        run = until(lambda: finished(client, "nightly", after=newest), "the night after it ends", timeout_s=600)
        assert run.state_type.value == "COMPLETED" and run.auto_scheduled, run.state
        assert any("up to date" in line for line in logs(client, run.id)), "nothing was left to do"
    whole(night)
    entries = trail.read(night.lake, "mealrec").entries[told:]
    assert entries and {entry.action for entry in entries} == {"promoted"}, entries
    assert entries[0].from_version == before and entries[-1].version == night.champion()
    assert night.lists_are_fresh()


def test_nights_never_overlap_and_one_that_comes_too_early_is_cancelled(night: Night) -> None:
    with night.client() as client:
        named = DeploymentFilter(name=DeploymentFilterName(any_=["nightly"]))
        refused = client.read_flow_runs(
            deployment_filter=named,
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["CANCELLED"]}}}),
        )
        ran = [run for run in reversed(runs_of(client, "nightly")) if run.state_type.value != "CANCELLED"]
    reasons = {run.state.message for run in refused if run.state is not None}
    assert reasons == {"Deployment concurrency limit reached."}, "the schedule is faster than the first night was"
    assert len(ran) >= 3
    assert [b.name for a, b in pairwise(ran) if a.end_time is None or b.start_time < a.end_time] == []


def the_second_night(client: SyncPrefectClient) -> Any:
    """The newest run that read events."""
    done = (run for run in runs_of(client, "nightly") if run.state_type.value == "COMPLETED")
    return next(run for run in done if any("to quarantine" in line for line in logs(client, run.id)))


def test_a_run_shows_its_figures_links_and_progress(night: Night) -> None:
    with night.client() as client:
        made = {a.key: a for a in artifacts(client, the_second_night(client).id)}
    assert {"mealrec-summary", "mealrec-metrics", "mealrec-report", "mealrec-mlflow-run"} <= set(made)
    assert "popularity" in str(made["mealrec-metrics"].data)
    assert night.servers.tracking_uri in made["mealrec-mlflow-run"].data
    assert made["mealrec-extract"].data == made["mealrec-train"].data == 100


def test_the_lines_of_spark_and_of_rays_workers_are_in_the_runs_log(night: Night) -> None:
    with night.client() as client:
        lines = logs(client, the_second_night(client).id)
        of_all = [line for run in runs_of(client, "nightly") for line in logs(client, run.id)]
    assert any("to quarantine" in line for line in lines), "said by the Spark driver"
    assert any(line.startswith("joint epoch 3/3:") for line in lines), "said by a Ray Train worker"
    # what is broken is tried on the first night alone, unless the second brings more
    assert any(line.startswith("worker: ") and "rejected: " in line for line in of_all), "said by an extracting actor"


def test_the_endpoint_answers_from_the_promoted_version(night: Night, endpoint: str) -> None:
    with Asking(endpoint, "u00001") as asking:
        until(lambda: asking.versions, "an answer", timeout_s=60)
    assert set(asking.versions) == {night.champion()} and set(asking.statuses) == {"200"}


def test_a_worse_challenger_is_refused_with_reasons_and_nothing_moves(night: Night, endpoint: str) -> None:
    with night.client() as client:
        client.pause_deployment(client.read_deployment_by_name("mealrec-pipeline/nightly").id)
        until(lambda: started(client, "nightly") is None, "the last night is over", timeout_s=120)
    champion = night.champion()
    # hardly trained, and the gate asks for a gain
    worse = [
        "train.warmup_epochs=0",
        "train.joint_epochs=1",
        "train.lr=1e-6",
        "train.joint_lr=1e-6",
        "registry.against_champion=better",
    ]
    settings = [word for setting in worse for word in ("--set", setting)]
    summary = night.mealrec("run", *settings)
    gate = summary["model"]["gate"]
    assert not gate["passed"] and any(f"champion version {champion}" in reason for reason in gate["reasons"])
    assert trail.read(night.lake, "mealrec").entries[-1].action == "refused"
    assert night.champion() == champion
    listed = night.mealrec("promotions")["promotions"]
    assert listed[-1]["action"] == "refused" and listed[-1]["reasons"] == gate["reasons"]


def test_a_rollback_restores_the_version_before_while_no_request_is_dropped(night: Night, endpoint: str) -> None:
    champion = night.champion()
    with Asking(endpoint, "u00001") as asking:
        until(lambda: asking.versions, "an answer before", timeout_s=60)
        back = night.mealrec("rollback")
        assert back["version"] != champion and "champion" in back["aliases"]
        until(lambda: asking.versions[-1] == back["version"], "the endpoint follows", timeout_s=120)
    assert set(asking.statuses) == {"200"}, asking.statuses
    assert set(asking.versions) == {champion, back["version"]}
    entry = trail.read(night.lake, "mealrec").entries[-1]
    assert (entry.action, entry.version, entry.from_version) == ("rolled back", back["version"], champion)
    assert RunConfig.model_validate(night.config).registry.model_name == entry.model
    assert entry.who and os.path.isdir(night.root)
