"""The staged loop: it learns, it resumes exactly, workers add up."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from mealrec.config import TrainConfig
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training import checkpoint
from mealrec.training.checkpoint import CheckpointError
from mealrec.training.loop import State, Trainer

CONFIG = TrainConfig(warmup_epochs=2, content_epochs=1, joint_epochs=2, batch_size=16, lr=5e-3, content_lr=2e-3)


def settings_of(packed: Packed) -> ModelSettings:
    return ModelSettings(**packed.content.dims, width=16, max_history=8)


def fresh(packed: Packed) -> State:
    torch.manual_seed(5)
    return State.fresh(MealRec(settings_of(packed)), CONFIG)


def test_training_learns_a_cyclic_order(packed: Packed) -> None:
    config = CONFIG.model_copy(update={"warmup_epochs": 30, "patience": 30, "joint_epochs": 3})
    state = State.fresh(MealRec(settings_of(packed)), config)
    Trainer(packed, config, seed=1).run(state)
    warmup = [c for c in state.progress.curves if c["stage"] == "warmup"]
    assert warmup[-1]["loss_next_item"] < 0.6 * warmup[0]["loss_next_item"]
    assert max(c["hr@10"] for c in warmup) > 0.8
    assert [c["stage"] for c in state.progress.curves][-1] == "joint"


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(packed: Packed, tmp_path: Path, stop_after: int) -> None:
    whole = fresh(packed)
    Trainer(packed, CONFIG, seed=9).run(whole)

    class Killed(Exception):
        pass

    def stop(state: State) -> None:
        checkpoint.save(state, tmp_path / "checkpoint")
        if state.progress.total_epochs == stop_after:
            raise Killed

    with pytest.raises(Killed):
        Trainer(packed, CONFIG, seed=9).run(fresh(packed), stop)
    torch.manual_seed(123)  # whatever state the process has, it must not matter
    resumed = checkpoint.load(tmp_path / "checkpoint", settings_of(packed), CONFIG)
    Trainer(packed, CONFIG, seed=9).run(resumed)
    assert resumed.progress.curves == whole.progress.curves
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_another_seed_gives_another_run(packed: Packed) -> None:
    one, two = fresh(packed), fresh(packed)
    Trainer(packed, CONFIG, seed=1).run(one)
    Trainer(packed, CONFIG, seed=2).run(two)
    assert one.progress.curves != two.progress.curves


def test_frozen_parts_stay_as_they_are_in_the_content_stage(packed: Packed) -> None:
    state = fresh(packed)
    seen: dict[str, torch.Tensor] = {}

    def watch(state: State) -> None:
        if state.progress.stage == "warmup":
            seen.update({k: v.clone() for k, v in state.best.items() if k.startswith("ids.")})
        if state.progress.stage == "content":
            assert torch.equal(state.model.state_dict()["ids.weight"], seen["ids.weight"])

    Trainer(packed, CONFIG, seed=1).run(state, watch)


def test_a_checkpoint_of_other_settings_or_half_a_checkpoint_is_refused(packed: Packed, tmp_path: Path) -> None:
    state = fresh(packed)
    checkpoint.save(state, tmp_path)
    other = ModelSettings(**packed.content.dims, width=32, max_history=8)
    with pytest.raises(CheckpointError, match="width: 16 there, 32 here"):
        checkpoint.load(tmp_path, other, CONFIG)
    (tmp_path / "state.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path, settings_of(packed), CONFIG)


def test_a_checkpoint_names_an_unknown_stage(packed: Packed, tmp_path: Path) -> None:
    checkpoint.save(fresh(packed), tmp_path)
    body = json.loads((tmp_path / "state.json").read_text())
    body["progress"]["stage"] = "warmp"
    (tmp_path / "state.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="valid: warmup, content, joint"):
        checkpoint.load(tmp_path, settings_of(packed), CONFIG)


def test_no_training_window_is_said_plainly(packed: Packed) -> None:
    empty = copy.copy(packed)
    object.__setattr__(empty, "offsets", packed.offsets[:1])
    with pytest.raises(ValueError, match="no training window"):
        Trainer(empty, CONFIG, seed=1).run(fresh(packed))
