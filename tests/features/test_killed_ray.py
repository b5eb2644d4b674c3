"""SIGKILL of Ray's own processes: its helpers cost nothing; its node or its head ends the run, and the next one goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mealrec.cluster import ray_cluster
from mealrec.config import RunConfig, override
from mealrec.lake import Lake
from mealrec.schema import FEATURES, QUARANTINE
from mealrec.stages.extract import extract
from tests.features.test_killed import DRIVER, parts

pytestmark = [pytest.mark.night, pytest.mark.ray, pytest.mark.media]

GOOD, BAD = 44, 4
# what Ray Data starts beside our actors, and a worker that waits for a task
HELPERS = ["ActorLocationTracker", "_AutoscalingCoordinatorActor", "_StatsActor", "ray::IDLE"]


@pytest.fixture
def config(make_landing: Callable[[list[dict[str, Any]]], Path], run_config: RunConfig, clips: Path) -> RunConfig:
    """Good and broken videos, a block each."""
    names = ["silent.mp4"] * GOOD + ["text.mp4"] * BAD
    root = make_landing([{"video_id": f"v{i:02}", "uri": f"videos/{i}.mp4", "title": None} for i in range(len(names))])
    for i, name in enumerate(names):
        shutil.copy(clips / name, root / "videos" / f"{i}.mp4")
    return override(run_config, ["features.batch_videos=1"])


def kill(kind: str, below: int) -> bool:
    for process in psutil.Process(below).children(recursive=True):
        with suppress(psutil.Error):
            if kind in " ".join(process.cmdline()):
                process.kill()
                return True
    return False


def every_video_is_in_exactly_one_table(config: RunConfig) -> None:
    good = Lake(config.lake).read(FEATURES)["video_id"].to_pylist()
    bad = Lake(config.lake).read(QUARANTINE)
    assert sorted(good) == [f"v{i:02}" for i in range(GOOD)]
    assert sorted(bad["key"].to_pylist()) == [f"v{i:02}" for i in range(GOOD, GOOD + BAD)]
    assert set(bad["reason"].to_pylist()) == {"not_a_video"}


def test_killed_helpers_of_ray_cost_no_video_and_not_the_run(config: RunConfig) -> None:
    killed: list[str] = []

    def kill_all() -> None:
        until = time.monotonic() + 120
        while not parts(config) and time.monotonic() < until:
            time.sleep(0.01)
        killed.extend(kind for kind in HELPERS if kill(kind, psutil.Process().pid))

    with ray_cluster(config.ray):
        killer = threading.Thread(target=kill_all)
        killer.start()
        summary = extract(config)
        killer.join()
    assert killed == HELPERS
    assert summary.details["done_now"] == GOOD + BAD
    every_video_is_in_exactly_one_table(config)


@pytest.mark.night
@pytest.mark.parametrize("kind", ["raylet/raylet", "gcs/gcs_server"])
def test_a_killed_node_or_head_leaves_nothing_visible_and_its_finished_videos_are_not_done_again(
    config: RunConfig, kind: str
) -> None:
    # as in production, but Ray gives up what is lost in seconds and not in a minute
    quick = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_health_check_period_ms": "1000"}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, config.model_dump_json()],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | quick,
    )
    until = time.monotonic() + 120
    while len(parts(config)) < 3:
        assert driver.poll() is None and time.monotonic() < until, "the run ended or hung before it could be killed"
        time.sleep(0.01)
    assert kill(kind, driver.pid)
    assert driver.wait(timeout=120) != 0, "a run that lost its cluster says so"
    assert not Lake(config.lake).exists(FEATURES)
    time.sleep(3)  # the workers end with their node
    times = {p.name: p.stat().st_mtime_ns for p in parts(config)}

    resumed = extract(config)
    assert resumed.details["done_now"] == GOOD + BAD - len(times)
    assert {p.name: p.stat().st_mtime_ns for p in parts(config) if p.name in times} == times
    every_video_is_in_exactly_one_table(config)
