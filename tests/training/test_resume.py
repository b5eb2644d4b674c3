"""A run that is killed after any of its steps, and killed again, ends as one that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.training import checkpoint
from mealrec.training.checkpoint import CheckpointError
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings
from tests.training.killed_run import CONFIG, SEED, digest, fresh, settings_of

ROOT = Path(__file__).resolve().parents[2]


def test_killed_after_every_step_and_again_it_ends_bit_for_bit_the_same(packed: Packed, tmp_path: Path) -> None:
    for name in ("packed", "lives"):
        (tmp_path / name).mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed_run", str(packed.root), str(tmp_path / "lives")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found["killed"]) >= 9
    assert set(found["killed"].values()) == {found["whole"]}


class Stopped(Exception):
    pass


def stopped_inside_a_joint_epoch(packed: Packed, folder: Path, config: TrainSettings = CONFIG, epochs: int = 1) -> None:
    """Leaves the checkpoint of the joint epoch's middle that comes after so many."""

    def save(state: State) -> None:
        checkpoint.save(state, folder)
        if state.progress.stage == "joint" and state.progress.epoch == epochs and state.progress.step:
            raise Stopped

    with pytest.raises(Stopped):
        Trainer(packed, config, seed=SEED).run(fresh(packed), save, on_step=save)


def _model(state: State, packed: Packed) -> None:
    state.model.load_state_dict(fresh(packed).model.state_dict())


def _teacher(state: State, packed: Packed) -> None:
    state.teacher.load_state_dict(fresh(packed).model.state_dict())


def _best(state: State, packed: Packed) -> None:
    state.best = fresh(packed).best
    state.progress.best = 2.0  # else the next epoch writes over it


def _moment(name: str) -> Callable[[State, Packed], None]:
    def forget(state: State, packed: Packed) -> None:
        del packed
        for values in state.optimiser.state.values():
            values[name].zero_()

    return forget


def _step(state: State, packed: Packed) -> None:
    del packed
    state.progress.step = 0


def _epoch(state: State, packed: Packed) -> None:
    del packed
    state.progress.epoch -= 1


def _total_epochs(state: State, packed: Packed) -> None:
    del packed
    state.progress.total_epochs -= 1


def _stage(state: State, packed: Packed) -> None:
    del packed
    state.progress.stage = "warmup"


def _losses(state: State, packed: Packed) -> None:
    del packed
    state.progress.losses = {}


def _pooled(state: State, packed: Packed) -> None:
    del packed
    state.pooled = None


PARTS: dict[str, Callable[[State, Packed], None]] = {
    "weights": _model,
    "averaged weights": _teacher,
    "best weights": _best,
    "first moments": _moment("exp_avg"),
    "second moments": _moment("exp_avg_sq"),
    "step counts": _moment("step"),
    "steps of the epoch": _step,
    "epochs": _epoch,
    "epochs of both stages": _total_epochs,
    "stage": _stage,
    "sums of losses": _losses,
    "tokens of the epoch's catalogue": _pooled,
}


@pytest.mark.parametrize("forgotten", ["nothing", *PARTS])
def test_every_part_of_a_checkpoint_is_needed(packed: Packed, tmp_path: Path, forgotten: str) -> None:
    whole = fresh(packed)
    Trainer(packed, CONFIG, seed=SEED).run(whole)
    stopped_inside_a_joint_epoch(packed, tmp_path / "last")
    torch.manual_seed(123)  # whatever state the process has, it must not matter
    state = checkpoint.load(tmp_path / "last", settings_of(packed), CONFIG)
    if forgotten != "nothing":
        PARTS[forgotten](state, packed)
    Trainer(packed, CONFIG, seed=SEED).run(state)
    assert (digest(state) == digest(whole)) == (forgotten == "nothing")


# no epoch of a stage is better than its first one, so that patience ends it after the fourth
STILL = replace(CONFIG, joint_epochs=6, patience=3, lr=1e-12, joint_lr=1e-12)


@pytest.mark.parametrize(("forgotten", "ends_after"), [("nothing", 4), ("waited", 5), ("best", 6)])
def test_patience_goes_on_from_where_it_was(packed: Packed, tmp_path: Path, forgotten: str, ends_after: int) -> None:
    stopped_inside_a_joint_epoch(packed, tmp_path / "last", STILL, epochs=2)
    state = checkpoint.load(tmp_path / "last", settings_of(packed), STILL)
    assert state.progress.waited == 1 and state.progress.best > 0
    if forgotten == "waited":
        state.progress.waited = 0
    elif forgotten == "best":
        state.progress.best = -1.0
    Trainer(packed, STILL, seed=SEED).run(state)
    assert [entry["stage"] for entry in state.progress.curves].count("joint") == ends_after


def test_what_a_snapshot_holds_does_not_change_while_training_goes_on(packed: Packed, tmp_path: Path) -> None:
    state = fresh(packed)
    taken: list[checkpoint.Snapshot] = []

    def take(held: State) -> None:
        if not taken:
            checkpoint.save(held, tmp_path / "then")
            taken.append(checkpoint.snapshot(held))

    Trainer(packed, CONFIG, seed=SEED).run(state, on_step=take)
    checkpoint.write(taken[0], tmp_path / "later")
    then, later = (checkpoint.load(tmp_path / n, settings_of(packed), CONFIG) for n in ("then", "later"))
    assert digest(then) == digest(later) != digest(state)
    assert then.progress.step == CONFIG.checkpoint_steps


def test_a_checkpoint_without_its_last_file_is_none(packed: Packed, tmp_path: Path) -> None:
    checkpoint.save(fresh(packed), tmp_path / "half")
    (tmp_path / "half" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / "half", settings_of(packed), CONFIG)
