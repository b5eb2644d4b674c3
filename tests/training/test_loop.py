"""The staged loop: it learns, it resumes exactly, workers add up."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.data.split import leave_one_out
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training import checkpoint
from mealrec.training.checkpoint import CheckpointError
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings
from mealrec.training.step import catalogue_vectors
from tests.training.killed_run import settings_of

CONFIG = TrainSettings(warmup_epochs=2, joint_epochs=2, batch_size=16, lr=5e-3, joint_lr=2e-3)


def fresh(packed: Packed) -> State:
    torch.manual_seed(5)
    return State.fresh(MealRec(settings_of(packed)), CONFIG)


def test_training_learns_a_cyclic_order(packed: Packed) -> None:
    config = dataclasses.replace(CONFIG, warmup_epochs=30, patience=30, joint_epochs=3)
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


def test_the_warm_up_leaves_diffusion_and_denoising_untouched(packed: Packed) -> None:
    state = fresh(packed)
    before = {k: v.clone() for k, v in state.model.state_dict().items()}
    moved: dict[str, set[str]] = {"warmup": set(), "joint": set()}

    def watch(state: State) -> None:
        now = state.model.state_dict()
        moved[state.progress.stage] |= {k.split(".")[0] for k, v in now.items() if not torch.equal(v, before[k])}

    Trainer(packed, CONFIG, seed=1).run(state, watch)
    assert {"ids", "backbone", "fusion", "tokeniser"} <= moved["warmup"]
    assert not moved["warmup"] & {"tcd", "npd", "guidance", "condition", "salience"}
    assert {"tcd", "npd", "guidance", "condition", "salience"} <= moved["joint"]


def test_a_model_without_diffusion_and_denoising_is_whole_after_the_warm_up(packed: Packed) -> None:
    settings = ModelSettings(**packed.content.dims, width=16, max_history=8, tcd="mean", npd="off")
    state = State.fresh(MealRec(settings), CONFIG)
    Trainer(packed, CONFIG, seed=1).run(state)
    assert {c["stage"] for c in state.progress.curves} == {"warmup"}


def test_the_id_only_model_does_not_depend_on_content(packed: Packed) -> None:
    torch.manual_seed(5)
    settings = ModelSettings(**packed.content.dims, width=16, max_history=8, content=False, tcd="mean", npd="off")
    state = State.fresh(MealRec(settings), CONFIG)
    Trainer(packed, CONFIG, seed=1).run(state)
    blank = Trainer(packed, CONFIG, seed=1)
    blank.facts = dataclasses.replace(blank.facts, text=torch.randn_like(blank.facts.text))
    everything = torch.arange(packed.items + 1)
    one = catalogue_vectors(state.model, Trainer(packed, CONFIG, seed=1).facts, everything)[1]
    assert torch.equal(one, catalogue_vectors(state.model, blank.facts, everything)[1])


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "bert4rec", "nextitnet"])
def test_every_backbone_learns_the_cyclic_order_and_carries_both_plug_ins(packed: Packed, backbone: str) -> None:
    torch.manual_seed(5)
    config = dataclasses.replace(CONFIG, warmup_epochs=40, patience=40, joint_epochs=1)
    settings = ModelSettings(**packed.content.dims, width=16, max_history=8, backbone=backbone, dropout=0.1)  # type: ignore[arg-type]
    state = State.fresh(MealRec(settings), config)
    Trainer(packed, config, seed=1).run(state)
    warmup = [c["hr@10"] for c in state.progress.curves if c["stage"] == "warmup"]
    assert max(warmup) > 0.75
    assert state.progress.curves[-1]["stage"] == "joint" and state.progress.curves[-1]["hr@10"] > 0.6


def test_sampled_candidates_learn_the_order_too(packed: Packed) -> None:
    config = dataclasses.replace(CONFIG, warmup_epochs=40, patience=40, joint_epochs=1, negatives=12)
    state = State.fresh(MealRec(settings_of(packed)), config)
    Trainer(packed, config, seed=1).run(state)
    assert max(c["hr@10"] for c in state.progress.curves) > 0.75


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
    with pytest.raises(ValueError, match="valid: warmup, joint"):
        checkpoint.load(tmp_path, settings_of(packed), CONFIG)


def test_no_training_window_is_said_plainly(packed: Packed) -> None:
    empty = copy.copy(packed)
    object.__setattr__(empty, "offsets", packed.offsets[:1])
    object.__setattr__(empty, "cuts", leave_one_out(packed.offsets[:1]))
    with pytest.raises(ValueError, match="no training window"):
        Trainer(empty, CONFIG, seed=1).run(fresh(packed))


@pytest.mark.parametrize(("protocol", "way_out"), [("temporal", "raise sessionize.valid_share"), (None, "three")])
def test_nobody_to_validate_with_is_said_plainly_before_an_epoch_is_spent(
    packed: Packed, protocol: str | None, way_out: str
) -> None:
    nobody = packed.cuts._replace(valid_at=np.full_like(packed.cuts.valid_at, -1))
    meta = packed.meta | ({"protocol": protocol} if protocol else {})
    data, state = dataclasses.replace(packed, cuts=nobody, meta=meta), fresh(packed)
    with pytest.raises(ValueError, match=f"leaves no viewer a validation target.*{way_out}"):
        Trainer(data, CONFIG, seed=1).run(state)
    assert state.progress.curves == []
