"""Ray Train's driver killed with SIGKILL, and the run that goes on from it killed inside an epoch with all its workers."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mealrec.config import RayConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.training import checkpoint
from mealrec.training.trainer import Job, train
from tests.conftest import write_packed
from tests.integration.servers import kill_tree, until
from tests.training.killed_run import digest, settings_of
from tests.training.without_ray import ROOT, ends_of

pytestmark = [pytest.mark.night, pytest.mark.ray]

CONFIG = TrainConfig(workers=2, warmup_epochs=2, joint_epochs=1, batch_size=1, lr=5e-3, checkpoint_steps=10)
DRIVER = (
    "import json, sys; from mealrec.config import RayConfig; from mealrec.training.trainer import Job, train; "
    "train(Job.from_json(json.loads(sys.argv[1])), RayConfig(), print)"
)


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return write_packed(tmp_path / "packed", viewers=60)


def stands_at(job: Job) -> tuple[int, int]:
    """Epoch and step of the newest checkpoint that Ray knows, which is what a run goes on from; zeros while there is none, or
    while Ray writes this down."""
    held = job.folder / "checkpoint_manager_snapshot.json"
    try:
        newest = json.loads(held.read_text())["latest_checkpoint_result"]
    except (FileNotFoundError, json.JSONDecodeError):
        return 0, 0
    return (newest["metrics"]["epoch"], newest["metrics"].get("step", 0)) if newest else (0, 0)


def resumed(job: Job) -> list[str]:
    file = job.beside("progress")
    return [line for line in file.read_text().splitlines() if "resumed after" in line] if file.is_file() else []


def start(job: Job) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(job.to_json())], cwd=ROOT)


def kill_the_driver(job: Job) -> None:
    """Once there is a checkpoint. Its workers go on for some seconds, past an epoch's end even."""
    driver = start(job)
    try:
        until(lambda: lives(driver) and stands_at(job) > (0, 0), "a first checkpoint", 240, every_s=0.02)
    finally:
        driver.kill()
        driver.wait()


def kill_everything_inside_an_epoch(job: Job) -> None:
    """The driver and all its processes at once, as a machine's failure would, at a later step than the one it went on from.
    Everything is stopped before looking where it stands: otherwise the epoch could end between look and kill."""
    driver = start(job)
    tree = psutil.Process(driver.pid)
    try:
        # the workers of the driver that was killed before may go on meanwhile
        until(lambda: lives(driver) and len(resumed(job)) == 1, "a run that goes on", 240, every_s=0.02)
        began = stands_at(job)

        def is_further() -> bool:
            signal_all(tree, signal.SIGSTOP)
            now = stands_at(job)
            if now > began and now[1] > 0:
                return True
            signal_all(tree, signal.SIGCONT)
            return False

        until(lambda: lives(driver) and is_further(), "a step further", 240, every_s=0.1)
    finally:
        kill_tree(tree)
        driver.wait()


def lives(driver: subprocess.Popen[bytes]) -> bool:
    assert driver.poll() is None, "the run ended before it could be killed"
    return True


def signal_all(tree: psutil.Process, number: int) -> None:
    for one in (tree, *tree.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def test_a_run_that_is_killed_twice_ends_bit_for_bit_the_same(packed: Packed, tmp_path: Path) -> None:
    job = Job("run", str(tmp_path), str(packed.root), settings_of(packed), CONFIG, seed=3)
    kill_the_driver(job)
    kill_everything_inside_an_epoch(job)
    last = train(job, RayConfig(), lambda line: None)
    assert len(set(resumed(job))) == 2 and "steps" in resumed(job)[-1], resumed(job)
    end = digest(checkpoint.load(last, job.settings, CONFIG.settings()))
    assert end == ends_of([job], tmp_path / "whole")[0].digest
