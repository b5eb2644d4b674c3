"""SIGTERM in the middle of a training: it saves where it stands, ends by the signal, and goes on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mealrec.config import RunConfig
from mealrec.data.packed import Packed
from mealrec.lake import Lake
from mealrec.registry.tracking import Tracker
from mealrec.stages.train import model_settings, packed_dataset, pinned_versions, train_digest
from mealrec.training import checkpoint
from mealrec.training.trainer import Job
from tests.integration.servers import until
from tests.trainable import tables
from tests.training.killed_run import digest
from tests.training.without_ray import ROOT, ends_of

pytestmark = [pytest.mark.night, pytest.mark.ray]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """No checkpoint inside an epoch but the one that is asked for."""
    lake = Lake(str(tmp_path / "lake"))
    tables(lake, viewers=160)
    return RunConfig.model_validate(
        {
            "lake": lake.root,
            "model": {"width": 16, "max_history": 8},
            "features": {"frames": 2},
            "train": {"warmup_epochs": 2, "joint_epochs": 1, "batch_size": 2, "checkpoint_steps": 0},
        }
    )


def job_of(config: RunConfig) -> Job:
    """What the stage trains."""
    lake = Lake(config.lake)
    packed: Packed = packed_dataset(config, lake, pinned_versions(lake))
    name, storage = f"train-{train_digest(config, lake)}", lake.folder("checkpoints")
    return Job(name, str(storage), str(packed.root), model_settings(config, packed), config.train, config.seed)


def test_a_training_that_gets_a_sigterm_saves_where_it_stands_and_ends_as_one_that_got_none(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "mealrec.cli", "train", "--config", str(tmp_path / "config.json")]
    job = job_of(config)

    def said(words: str) -> bool:
        return job.beside("progress").is_file() and words in job.beside("progress").read_text()

    driver = subprocess.Popen(command, cwd=ROOT)
    try:
        until(lambda: said("epoch 1/") or driver.poll() is not None, "an epoch", 240, every_s=0.02)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(timeout=240) == -signal.SIGTERM
    finally:
        driver.kill()
    tracker = Tracker(config.registry, Lake(config.lake).work)
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert [run.info.status for run in runs] == ["KILLED"]
    assert not said("resumed after") and not job.beside("stop").exists()

    subprocess.run(command, cwd=ROOT, check=True, timeout=240)
    assert said("resumed after 1 epochs and ")
    newest = max(p for p in job.folder.iterdir() if p.name.startswith("checkpoint_2"))
    end = digest(checkpoint.load(newest, job.settings, config.train.settings()))
    assert end == ends_of([job], tmp_path / "whole")[0].digest
