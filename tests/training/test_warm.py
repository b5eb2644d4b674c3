"""A run that begins as an earlier model: videos keep their IDs wherever they stand now, and both stages go on from it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.training import warm
from mealrec.training.loop import Trainer
from mealrec.training.warm import Earlier
from tests.conftest import write_packed
from tests.training.killed_run import CONFIG, SEED, settings_of


@pytest.fixture
def yesterday(packed: Packed) -> Earlier:
    torch.manual_seed(1)
    return Earlier(MealRec(settings_of(packed)), packed.item_ids(), packed.content, "leave-one-out")


def today(folder: Path, order: list[int], new: int) -> Packed:
    """The same videos in another order (a permutation of 1 to 30), and some new ones behind them."""
    data = write_packed(folder, items=len(order) + new)
    old = write_packed(folder / "old", items=len(order))
    for name in ("visual", "audio", "text", "available"):
        array = np.load(folder / f"{name}.npy")
        array[1 : len(order) + 1] = np.load(old.root / f"{name}.npy")[order]
        np.save(folder / f"{name}.npy", array)
    ids = [f"v{n}" for n in order] + [f"new{n}" for n in range(new)]
    (folder / "items.json").write_text(json.dumps(ids))
    return Packed.open(data.root)


def test_videos_keep_their_ids_wherever_they_stand_now(yesterday: Earlier, tmp_path: Path) -> None:
    model = yesterday.model
    order = [int(n) + 1 for n in np.random.default_rng(0).permutation(30)]
    data = today(tmp_path / "today", order, new=2)
    weights, kept = warm.carried(yesterday, data, settings_of(data), seed=3, keep=1.0)
    assert kept == 30
    assert torch.equal(weights["ids.weight"][1:31], model.ids.weight[torch.tensor(order)])
    assert bool((weights["ids.weight"][31:] != 0).any(1).all()), "new videos have fresh IDs"
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items() if k != warm.IDS)


def test_weights_are_drawn_towards_those_of_a_fresh_model(yesterday: Earlier, packed: Packed, tmp_path: Path) -> None:
    data = today(tmp_path / "today", list(range(1, 31)), new=2)
    drawn, kept = warm.carried(yesterday, data, settings_of(data), seed=3, keep=0.25)
    torch.manual_seed(3)
    fresh, old = MealRec(settings_of(data)).state_dict(), yesterday.model.state_dict()
    assert kept == 30 and torch.equal(drawn[warm.IDS][31:], fresh[warm.IDS][31:])
    for held in (drawn, fresh):
        held[warm.IDS] = held[warm.IDS][:31]
    for name, tensor in old.items():
        assert torch.allclose(drawn[name], 0.75 * fresh[name] + 0.25 * tensor, atol=1e-6), name


def test_a_run_begins_both_stages_with_what_was_written(yesterday: Earlier, packed: Packed, tmp_path: Path) -> None:
    model = yesterday.model
    weights, _ = warm.carried(yesterday, packed, settings_of(packed), seed=3, keep=1.0)
    warm.write(weights, tmp_path / "initial", {"champion": "7"})
    assert warm.origin_of(tmp_path / "initial") == {"champion": "7"}
    state = warm.begin(tmp_path / "initial", settings_of(packed), CONFIG)
    for held in (state.model.state_dict(), state.teacher.state_dict(), state.best):
        assert all(torch.equal(held[k], v) for k, v in model.state_dict().items())
    Trainer(packed, CONFIG, seed=SEED).run(state)
    assert {entry["stage"] for entry in state.progress.curves} == {"warmup", "joint"}


def test_another_kind_of_model_is_refused_by_name(yesterday: Earlier, packed: Packed) -> None:
    wider = dataclasses.replace(settings_of(packed), layers=3)
    with pytest.raises(warm.NotAlike, match="layers: 2 there, 3 here"):
        warm.carried(yesterday, packed, wider, seed=3, keep=1.0)


def test_a_model_that_was_trained_on_what_is_held_out_now_is_refused(yesterday: Earlier, packed: Packed) -> None:
    other = yesterday._replace(protocol="temporal")
    with pytest.raises(warm.NotAlike, match="another protocol \\(temporal there, leave-one-out here\\)"):
        warm.carried(other, packed, settings_of(packed), seed=3, keep=1.0)


def test_features_of_another_encoder_are_refused(yesterday: Earlier, tmp_path: Path) -> None:
    data = today(tmp_path / "today", list(range(1, 31)), new=0)
    visual = np.load(data.root / "visual.npy")
    np.save(data.root / "visual.npy", np.random.default_rng(8).normal(size=visual.shape).astype(np.float16))
    with pytest.raises(warm.NotAlike, match="other visual features"):
        warm.carried(yesterday, Packed.open(data.root), settings_of(data), seed=3, keep=1.0)


def test_no_video_in_common_is_no_beginning(yesterday: Earlier, tmp_path: Path) -> None:
    data = today(tmp_path / "today", list(range(1, 31)), new=0)
    (data.root / "items.json").write_text(json.dumps([f"x{n}" for n in range(30)]))
    with pytest.raises(warm.NotAlike, match="no video in common"):
        warm.carried(yesterday, Packed.open(data.root), settings_of(data), seed=3, keep=1.0)


def test_videos_that_are_silent_on_both_days_do_not_look_like_another_encoder(packed: Packed, tmp_path: Path) -> None:
    data = today(tmp_path / "today", list(range(1, 31)), new=0)
    for folder in (packed.root, data.root):
        np.save(folder / "audio.npy", np.zeros_like(np.load(folder / "audio.npy")))
    silent, data = Packed.open(packed.root), Packed.open(data.root)
    earlier = Earlier(MealRec(settings_of(silent)), silent.item_ids(), silent.content, "leave-one-out")
    assert warm.carried(earlier, data, settings_of(data), seed=3, keep=1.0)[1] == 30
