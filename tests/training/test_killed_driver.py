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
from tests.training.without_ray import ROOT, end_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = TrainConfig(workers=2, warmup_epochs=2, joint_epochs=1, batch_size=1, lr=5e-3, checkpoint_steps=10)
DRIVER = (
    "import json, sys; from mealrec.config import RayConfig; from mealrec.training.trainer import Job, train; "
    "train(Job.from_json(json.loads(sys.argv[1])), RayConfig(), print)"
)


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return write_packed(tmp_path / "packed", viewers=120)


def stands_at(job: Job) -> tuple[int, int]:
    """Epoch and step of the newest checkpoint that Ray knows: what a run goes on from."""
    held = job.folder / "checkpoint_manager_snapshot.json"
    newest = json.loads(held.read_text())["latest_checkpoint_result"] if held.is_file() else None
    return (newest["metrics"]["epoch"], newest["metrics"].get("step", 0)) if newest else (0, 0)


def kill_inside_an_epoch(job: Job) -> tuple[int, int]:
    """Run it until it stands at a later step than before; where it stands when it is killed."""
    began = stands_at(job)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(job.to_json())], cwd=ROOT)

    def is_further() -> bool:
        assert driver.poll() is None, "the run ended before it could be killed"
        return stands_at(job) > began and stands_at(job)[1] > 0

    try:
        until(is_further, "a checkpoint inside an epoch", 240, every_s=0.02)
    finally:
        driver.kill()
        driver.wait()
    return stands_at(job)


def test_a_run_whose_driver_is_killed_twice_ends_bit_for_bit_the_same(packed: Packed, tmp_path: Path) -> None:
    job, said = Job("run", str(tmp_path), str(packed.root), settings_of(packed), CONFIG, seed=3), list[str]()
    first = kill_inside_an_epoch(job)
    second = kill_inside_an_epoch(job)
    assert first < second
    last = train(job, RayConfig(), said.append)
    resumed = [line for line in job.beside("progress").read_text().splitlines() if "resumed after" in line]
    assert len(resumed) == 2 and all("steps" in line for line in resumed), resumed
    end = digest(checkpoint.load(last, job.settings, CONFIG.settings()))
    assert end == end_of(job, tmp_path / "whole")["digest"]
