"""A checkpoint that a power cut or a disk has damaged costs a run some steps, and not the run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mealrec.config import RayConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.training import checkpoint
from mealrec.training.checkpoint import CheckpointError
from mealrec.training.loop import State, Trainer
from mealrec.training.peers import Peers
from mealrec.training.resume import agreed, newest_whole
from mealrec.training.trainer import Job, train
from tests.training.killed_run import SEED, SHORT, digest, fresh, settings_of


def truncate(folder: Path) -> None:
    file = folder / "state.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def flip_a_byte(folder: Path) -> None:
    file = folder / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def spoil_json(folder: Path) -> None:
    (folder / "state.json").write_bytes(b"\0" * 512)  # what is left of a file whose content was not yet on the disk


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def checkpoints(packed: Packed, folder: Path) -> tuple[str, list[Path]]:
    """How an uninterrupted run ends, and three checkpoints of its inside, oldest first."""
    written: list[Path] = []

    def save(state: State) -> None:
        if len(written) < 3:
            written.append(folder / f"checkpoint_{len(written)}")
            checkpoint.save(state, written[-1])

    whole = fresh(packed)
    Trainer(packed, SHORT, seed=SEED).run(whole, save, on_step=save)
    return digest(whole), written


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, spoil_json, empty])
def test_a_run_whose_newest_checkpoints_are_damaged_goes_on_from_the_one_before_and_ends_the_same(
    packed: Packed, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    end, (oldest, older, newest) = checkpoints(packed, tmp_path)
    damage(newest)
    damage(older)
    said: list[str] = []
    state = newest_whole(newest, settings_of(packed), SHORT, said.append)
    assert state.progress.step == SHORT.checkpoint_steps, "it stands where the oldest was written"
    assert [line.partition(":")[0] for line in said] == [str(newest), str(older)]
    Trainer(packed, SHORT, seed=SEED).run(state)
    assert digest(state) == end
    damage(oldest)
    with pytest.raises(CheckpointError, match=f"no checkpoint of this run is whole .*remove {tmp_path} to train from"):
        newest_whole(newest, settings_of(packed), SHORT)


def test_a_checkpoint_that_is_newer_than_the_reported_one_is_somebody_elses(packed: Packed, tmp_path: Path) -> None:
    checkpoint.save(fresh(packed), tmp_path / "checkpoint_2")
    (tmp_path / "checkpoint_1").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint of this run is whole"):
        newest_whole(tmp_path / "checkpoint_1", settings_of(packed), SHORT)


def test_other_settings_are_no_damage(packed: Packed, tmp_path: Path) -> None:
    for name in ("checkpoint_1", "checkpoint_2"):
        checkpoint.save(fresh(packed), tmp_path / name)
    said: list[str] = []
    other = replace(settings_of(packed), width=32)
    with pytest.raises(CheckpointError, match="made with other model settings"):
        newest_whole(tmp_path / "checkpoint_2", other, SHORT, said.append)
    assert said == []


def test_workers_that_read_different_checkpoints_do_not_train_together(packed: Packed) -> None:
    class Elsewhere(Peers):
        def total(self, value: torch.Tensor) -> torch.Tensor:
            return value + torch.tensor([1, 4])

    state = fresh(packed)
    state.progress.total_epochs, state.progress.step = 1, 4
    assert agreed(state, Elsewhere(0, 2)) is state
    state.progress.step = 2
    with pytest.raises(CheckpointError, match="different checkpoints"):
        agreed(state, Elsewhere(0, 2))


def test_what_marks_a_checkpoint_as_whole_is_written_once_the_rest_is_on_the_disk(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def settled(fd: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"{self.name} -> {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", settled)
    monkeypatch.setattr(Path, "replace", renamed)
    checkpoint.save(fresh(packed), tmp_path / "run" / "checkpoint_1")
    files, named = ["state.safetensors", "state.json.tmp"], ["checkpoint_1", "run"]
    assert done == [*files, "state.json.tmp -> state.json", *named]


def test_a_writer_that_is_killed_leaves_nothing_that_looks_whole(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def die(*arguments: object) -> None:
        raise Killed

    checkpoint.save(fresh(packed), tmp_path / "checkpoint_1")
    for module, name in ((checkpoint, "save_file"), (checkpoint, "_sha256"), (Path, "replace")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, name, die)
            checkpoint.save(fresh(packed), tmp_path / "checkpoint_2")
        assert not (tmp_path / "checkpoint_2" / "state.json").exists(), name
        newest_whole(tmp_path / "checkpoint_2", settings_of(packed), SHORT)


@pytest.mark.night
@pytest.mark.ray
def test_on_ray_a_run_whose_last_checkpoint_is_damaged_is_ended_again_by_the_same_call(
    packed: Packed, tmp_path: Path
) -> None:
    config = TrainConfig(workers=2, warmup_epochs=1, joint_epochs=1, batch_size=8, lr=5e-3, checkpoint_steps=2)
    job = Job("run", str(tmp_path), str(packed.root), settings_of(packed), config, seed=3)
    last = train(job, RayConfig(), lambda line: None)
    end = digest(checkpoint.load(last, job.settings, config.settings()))
    flip_a_byte(last)
    said: list[str] = []
    again = train(job, RayConfig(), said.append)
    assert again != last and any("going back to the one before it" in line for line in said), said
    assert digest(checkpoint.load(again, job.settings, config.settings())) == end
