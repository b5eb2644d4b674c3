"""Ray Train around the loop: a worker that is killed inside an epoch costs a few steps and changes nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from mealrec.config import RayConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.training import checkpoint, warm
from mealrec.training.trainer import Job, train
from tests.training.killed_run import digest, settings_of
from tests.training.without_ray import ends_of

CONFIG = TrainConfig(
    workers=2,
    warmup_epochs=2,
    joint_epochs=1,
    batch_size=2,
    patience=9,
    lr=5e-3,
    checkpoint_steps=3,
    keep_checkpoints=2,
)


def run(packed: Packed, folder: Path, said: list[str]) -> str:
    job = Job("run", str(folder), str(packed.root), settings_of(packed), CONFIG, seed=3)
    last = train(job, RayConfig(), said.append)
    kept = [p for p in (folder / "run").iterdir() if p.is_dir() and p.name.startswith("checkpoint")]
    assert len(kept) == CONFIG.keep_checkpoints and all((p / "state.json").is_file() for p in kept)
    return digest(checkpoint.load(last, settings_of(packed), CONFIG.settings()))


def kill_a_worker_after_a_checkpoint(folder: Path, killed: list[int]) -> None:
    """Once a fourth one is written: the first ones have then reached the driver, which is what a run goes on from."""
    until, seen = time.monotonic() + 120, set[Path]()
    while not killed and time.monotonic() < until:
        seen |= set(folder.glob("run/checkpoint*/state.json"))
        if len(seen) > 3:
            workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in p.name()]
            if workers:
                workers[-1].kill()
                killed.append(workers[-1].pid)
        time.sleep(0.02)


@pytest.mark.slow
def test_a_worker_killed_inside_an_epoch_changes_nothing(packed: Packed, tmp_path: Path) -> None:
    said: list[str] = []
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after_a_checkpoint, args=(tmp_path / "killed", killed))
    killer.start()
    end = run(packed, tmp_path / "killed", said)
    killer.join()
    assert killed and any(line.startswith("resumed after") and "steps" in line for line in said), said
    whole = Job("whole", str(tmp_path), str(packed.root), settings_of(packed), CONFIG, seed=3)
    assert end == ends_of([whole], tmp_path / "whole")[0].digest


@pytest.mark.night
def test_workers_begin_as_the_earlier_model_and_end_a_stage_when_it_gets_no_better(
    packed: Packed, tmp_path: Path
) -> None:
    settings = settings_of(packed)
    torch.manual_seed(1)
    earlier = MealRec(settings).state_dict()
    warm.write(earlier, tmp_path / "initial", {})
    still = {"lr": 1e-12, "joint_lr": 1e-12}  # no epoch is better than the first
    many = {"warmup_epochs": 5, "joint_epochs": 5, "patience": 5, "warm_patience": 1}
    config = CONFIG.model_copy(update=many | {"checkpoint_steps": 0} | still)
    job = Job("run", str(tmp_path), str(packed.root), settings, config, seed=3, initial=str(tmp_path / "initial"))
    last = train(job, RayConfig(), lambda line: None)
    state = checkpoint.load(last, settings, config.settings())
    assert [entry["stage"] for entry in state.progress.curves] == ["warmup", "warmup", "joint", "joint"]
    assert torch.allclose(state.best["ids.weight"], earlier["ids.weight"], atol=1e-6)
