"""Stages as jobs on a real cluster of three nodes, one of which is lost in the middle."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.compute as pc
import pytest

from mealrec.lake import Lake
from mealrec.schema import FEATURES, QUARANTINE
from tests.features.conftest import render
from tests.integration.ray_nodes import START_S, Cluster
from tests.integration.servers import ROOT, until
from tests.trainable import tables

pytestmark = [pytest.mark.night, pytest.mark.ray, pytest.mark.timeout(900)]

VIDEOS, BROKEN = 60, 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.grow_to(3)
        yield cluster
    finally:
        cluster.stop()


def listening(process: psutil.Process) -> set[str]:
    return {
        c.laddr.ip.removeprefix("::ffff:") for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN
    }


def test_every_server_of_the_cluster_listens_on_loopback_alone(cluster: Cluster) -> None:
    processes = [p for starter in cluster.started for p in [starter, *starter.children(recursive=True)]]
    assert {ip for p in processes if p.is_running() for ip in listening(p)} == {"127.0.0.1"}


def test_a_wrong_or_missing_token_is_refused_and_the_right_one_never_shown(cluster: Cluster) -> None:
    wrong = cluster.mealrec("status", "some_job", RAY_AUTH_TOKEN="0" * 32)
    missing = cluster.mealrec("status", "some_job", RAY_AUTH_TOKEN="", HOME=str(cluster.folder))
    for refused in (wrong, missing):
        assert refused.returncode == 2, refused.stderr
        assert "refused the token" in refused.stderr and "RAY_AUTH_TOKEN_PATH" in refused.stderr
    unknown = cluster.mealrec("status", "some_job")
    assert unknown.returncode == 2 and "no job 'some_job'" in unknown.stderr
    logs = [p for p in cluster.folder.rglob("*") if p.is_file() and p.suffix in (".log", ".out", ".err")]
    assert len(logs) > 10
    assert [p.name for p in logs if cluster.token.encode() in p.read_bytes()] == []


def test_a_mistake_in_the_configuration_found_by_the_job_ends_with_status_2(cluster: Cluster) -> None:
    nowhere = "no where; touch harm $(touch harm)"
    done = cluster.mealrec("submit", "extract", "--lake", "lake", "--set", f"source.directory={nowhere}", "--json")
    assert done.returncode == 2, done.stderr
    assert f"no catalogue in {cluster.folder / nowhere}" in done.stderr, "a relative folder is taken from where we are"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert (answer["status"], answer["exit_code"]) == ("FAILED", 2)
    assert list(cluster.folder.rglob("harm")) == []


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    root = tmp_path / "landing"
    (root / "videos").mkdir(parents=True)
    render(root / "video.mp4")
    for i in range(VIDEOS):
        shutil.copy(root / "video.mp4", root / "videos" / f"{i}.mp4")
    for i in range(BROKEN):
        (root / "videos" / f"{i}.mp4").write_text("this is no video")
    rows = [{"video_id": f"v{i:03}", "uri": f"videos/{i}.mp4", "title": None} for i in range(VIDEOS)]
    (root / "catalogue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_an_extraction_survives_being_cancelled_and_the_loss_of_a_node(
    cluster: Cluster, landing: Path, tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    settings = {"frames": 4, "frame_size": 128, "audio": "none", "text": "none", "actors": 2, "batch_videos": 1}
    command = ["submit", "extract", "--lake", lake.root, "--set", f"source.directory={landing}", "--no-wait"]
    command += [word for key, value in settings.items() for word in ("--set", f"features.{key}={value}")]

    def parts() -> int:
        return len(list(Path(lake.root).glob("features/bucket=*/part-*.parquet")))

    job = cluster.mealrec(*command).stdout.strip()
    until(lambda: parts() >= 2, "first parts", START_S, every_s=0.05)
    cluster.freeze("ExtractActor")  # else it might be done before the command has started
    kept = parts()
    cancelled = cluster.mealrec("cancel", job)
    assert cancelled.returncode == 0 and f"{job}: STOPPED" in cancelled.stdout, cancelled.stderr
    assert cluster.mealrec("follow", job).returncode == 1
    assert not lake.exists(FEATURES) and parts() == kept < VIDEOS

    job = cluster.mealrec(*command).stdout.strip()
    until(lambda: parts() >= kept + 3, "parts of the second job", START_S, every_s=0.05)
    cluster.node_with("ExtractActor").kill()
    done = cluster.mealrec("follow", job)
    assert done.returncode == 0, done.stderr
    assert f"{kept} of {VIDEOS} blocks are there" in done.stderr
    good = lake.read(FEATURES)["video_id"].to_pylist()
    bad = lake.read(QUARANTINE, filters=pc.field("stage") == "extract")["key"].to_pylist()
    assert sorted(good + bad) == [f"v{i:03}" for i in range(VIDEOS)], "each once"
    assert sorted(bad) == [f"v{i:03}" for i in range(BROKEN)]


def test_with_the_runtime_environment_code_the_nodes_run_what_was_sent_and_not_what_they_have(
    cluster: Cluster, tmp_path: Path
) -> None:
    checkout, landing = tmp_path / "checkout", tmp_path / "landing"
    for package in ("mealrec", "spark_jobs"):
        shutil.copytree(ROOT / package, checkout / package)
    stage = checkout / "mealrec" / "stages" / "extract.py"
    stage.write_text(stage.read_text().replace("videos in the catalogue:", "videos, says the code that was sent:"))
    landing.mkdir()
    (landing / "catalogue.jsonl").write_text(json.dumps({"video_id": "v1", "uri": None, "title": "noodles"}) + "\n")
    settings = [f"source.directory={landing}", "features.actors=1", "features.buckets=1"]
    settings += [f"features.{modality}=none" for modality in ("visual", "audio", "text")]
    command = ["submit", "extract", *[word for setting in settings for word in ("--set", setting)]]
    for environment, words in (("image", "videos in the catalogue"), ("code", "says the code that was sent")):
        where = ["--lake", str(tmp_path / environment), "--runtime-env", environment]
        done = cluster.mealrec(*command, *where, PYTHONPATH=str(checkout))
        assert done.returncode == 0 and words in done.stderr, done.stderr


def test_a_training_that_loses_a_node_ends_as_one_that_does_not(cluster: Cluster, tmp_path: Path) -> None:
    cluster.grow_to(3)
    lake = Lake(str(tmp_path / "lake"))
    tables(lake)
    small = ["model.width=16", "model.max_history=8", "features.frames=2", "train.workers=2", "train.batch_size=16"]
    small += ["train.warmup_epochs=4", "train.joint_epochs=12", "train.patience=40"]
    small += [f"registry.tracking_uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    command = ["submit", "train", "--lake", lake.root, *[word for s in small for word in ("--set", s)]]

    def train(work: Path) -> list[str]:
        return [*command, "--work", str(work)]

    def epochs(work: Path) -> int:
        return sum(len(re.findall(r"epoch \d+/\d+:", p.read_text())) for p in work.glob("*/*.progress"))

    lost, whole = tmp_path / "lost", tmp_path / "whole"
    job = cluster.mealrec(*train(lost), "--no-wait").stdout.strip()
    until(lambda: epochs(lost) >= 2, "two epochs", START_S, every_s=0.05)
    cluster.node_with("RayTrainWorker").kill()
    done = cluster.mealrec("follow", job)
    assert done.returncode == 0, done.stderr
    assert re.search(r"resumed after [1-9][0-9]? epochs", done.stderr), done.stderr
    straight = cluster.mealrec(*train(whole))
    assert straight.returncode == 0 and "resumed" not in straight.stderr, straight.stderr

    def results(work: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted(work.glob("models/*/*")) if p.is_file()}

    assert results(lost) == results(whole) and "curves.json" in results(whole)
