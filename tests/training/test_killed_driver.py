"""Ray Train's driver killed with SIGKILL inside an epoch, and the run that goes on from it killed again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mealrec.config import RayConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.training import checkpoint
from mealrec.training.trainer import Job, train
from tests.conftest import write_packed
from tests.integration.servers import until
from tests.training.killed_run import digest, settings_of
from tests.training.without_ray import ROOT, ends_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

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


def kill_inside_an_epoch(job: Job, *, resumptions: int) -> None:
    """Run it until it has been resumed so often and stands at a later step than it then did."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(job.to_json())], cwd=ROOT)

    def lives() -> bool:
        assert driver.poll() is None, "the run ended before it could be killed"
        return True

    try:
        # the workers of a driver that was killed go on for some seconds
        until(lambda: lives() and len(resumed(job)) == resumptions, "a run that goes on", 240, every_s=0.02)
        began = stands_at(job)

        def is_further() -> bool:
            now = stands_at(job)
            return lives() and now > began and now[1] > 0

        until(is_further, "a step further", 240, every_s=0.02)
    finally:
        driver.kill()
        driver.wait()


def test_a_run_whose_driver_is_killed_twice_ends_bit_for_bit_the_same(packed: Packed, tmp_path: Path) -> None:
    job = Job("run", str(tmp_path), str(packed.root), settings_of(packed), CONFIG, seed=3)
    kill_inside_an_epoch(job, resumptions=0)
    kill_inside_an_epoch(job, resumptions=1)
    last = train(job, RayConfig(), lambda line: None)
    assert len(set(resumed(job))) == 2 and all("steps" in line for line in resumed(job)), resumed(job)
    end = digest(checkpoint.load(last, job.settings, CONFIG.settings()))
    assert end == ends_of([job], tmp_path / "whole")[0].digest
