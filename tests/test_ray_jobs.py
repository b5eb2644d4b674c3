"""What a job on a Ray cluster is sent with, and what its end means (the cluster itself: tests/integration)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv

from mealrec.config import RunConfig, override
from mealrec.ray_jobs import JobState, runtime_env, settled_for

HERE = Path("/somewhere/else")


def test_local_paths_are_taken_from_where_the_job_is_sent_and_the_cluster_is_the_jobs_own() -> None:
    config = override(
        RunConfig(),
        ["lake=var/lake", "work=w", "registry.tracking_uri=sqlite:///var/runs.db", "ray.address=10.0.0.1:6379"],
    )
    sent = settled_for(config, HERE)
    assert (sent.lake, sent.work) == ("/somewhere/else/var/lake", "/somewhere/else/w")
    assert sent.source.directory == "/somewhere/else/landing", "the default landing folder is a relative one"
    assert sent.registry.tracking_uri == "sqlite:////somewhere/else/var/runs.db"
    assert sent.ray.address is None


def test_addresses_and_absolute_paths_travel_as_they_are() -> None:
    settings = ["lake=s3://bucket/lake", "work=/shared/work", "source.directory=/shared/landing"]
    config = override(RunConfig(), [*settings, "registry.tracking_uri=http://127.0.0.1:5000"])
    assert settled_for(config, HERE) == config


def test_the_lock_file_becomes_a_runtime_environment_that_ray_accepts(tmp_path: Path) -> None:
    packed = RuntimeEnv(**runtime_env(str(tmp_path), "lock"))
    packages = packed["pip"]["packages"]
    assert {"torch==2.13.0", "deltalake==1.6.6"} <= set(packages) and len(packages) > 100
    assert all("==" in line for line in packages), "pinned, so that nothing has to be resolved"
    assert not any(line.startswith("ray==") for line in packages), "the cluster's Ray stays"
    assert "--no-deps" in packed["pip"]["pip_install_options"]
    assert [Path(p).name for p in packed["py_modules"]] == ["mealrec", "spark_jobs"]
    assert set(RuntimeEnv(**runtime_env(str(tmp_path), "image"))) == {"working_dir"}


@pytest.mark.parametrize(
    ("status", "exit_code", "ours"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 1, 1),
        ("FAILED", -9, 1),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
    ],
)
def test_the_end_of_a_job_is_the_end_of_the_command(status: str, exit_code: int | None, ours: int) -> None:
    assert JobState("j", status, "", exit_code, None).our_exit_code == ours


@pytest.mark.parametrize(
    ("env", "status", "words"),
    [
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/no/such/file"}, 2, "RAY_AUTH_TOKEN_PATH=/no/such/file"),
        ({"RAY_AUTH_TOKEN": "x" * 32}, 1, "no Ray dashboard answers at http://127.0.0.1:9"),
    ],
)
def test_a_token_that_is_not_there_and_a_cluster_that_is_not_there_are_told_plainly(
    env: dict[str, str], status: int, words: str
) -> None:
    command = [sys.executable, "-m", "mealrec.cli", "ray", "status", "j", "--address", "http://127.0.0.1:9"]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status and words in done.stderr and "Traceback" not in done.stderr, done.stderr
