"""The losses of one step: what they add up to, what they must not see."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from mealrec.data.packed import Packed
from mealrec.model import corruption
from mealrec.model.content import AUDIO, VIDEO, Content
from mealrec.model.mealrec import MealRec
from mealrec.model.npd import PreferenceDenoiser
from mealrec.model.settings import ModelSettings, Npd
from mealrec.model.tcd import Scene
from mealrec.training import step
from mealrec.training.candidates import everything
from mealrec.training.denoising import Clean, corrupted_history, strangers
from mealrec.training.loop import catalogue_facts
from mealrec.training.optimiser import clipped
from mealrec.training.step import Inputs, LossWeights, distinct, joint_loss

HISTORY = torch.tensor([[0, 1, 2, 6], [7, 8, 9, 10], [0, 0, 11, 12]])
TARGET = torch.tensor([[0, 2, 6, 13], [8, 9, 10, 14], [0, 0, 12, 15]])


def model_of(packed: Packed, npd: Npd = "blind") -> MealRec:
    torch.manual_seed(0)
    return MealRec(ModelSettings(**packed.content.dims, width=16, max_history=8, dropout=0.0, npd=npd)).train()


def inputs_of(packed: Packed) -> Inputs:
    videos = distinct(HISTORY, TARGET)
    candidates = everything(torch.arange(packed.items + 1))
    return Inputs(HISTORY, TARGET, candidates, catalogue_facts(packed), videos, packed.content.gather(videos))


def encoded(packed: Packed, kind: int, level: float) -> tuple[torch.Tensor, torch.Tensor]:
    model, inputs = model_of(packed), inputs_of(packed)
    drawn = corruption.Draw(torch.full((3,), kind), torch.full((3,), level))
    clean, stripped = step._encode_history(
        model, inputs, model.scene(inputs.content), torch.Generator().manual_seed(1), drawn
    )
    return clean.z, stripped


def test_modalities_are_lost_by_the_viewers_drawn_for_it_and_at_their_level(packed: Packed) -> None:
    mask = HISTORY > 0
    clean, stripped = encoded(packed, corruption.MODALITY, 1.0)
    changed = (clean != stripped).any(-1)
    assert not bool(changed[~mask].any())
    # a video that had no such modality to lose stays as it was; nearly all lose something at level 1
    assert float(changed[mask].float().mean()) > 0.8
    clean, stripped = encoded(packed, corruption.MODALITY, 0.0)
    assert torch.equal(clean, stripped)
    clean, stripped = encoded(packed, corruption.GAUSSIAN, 1.0)
    assert torch.equal(clean, stripped)


def test_only_what_somebody_watched_before_is_refined(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, refined = model_of(packed), inputs_of(packed), []
    model.settings = replace(model.settings, personal="pooling")
    monkeypatch.setattr(step, "behind_zeros", lambda videos: videos)
    monkeypatch.setattr(model, "refine", lambda scene, condition: refined.append(len(condition)) or scene.x)
    scene = model.scene(inputs.content)
    clean, _ = step._encode_history(model, inputs, scene, torch.Generator().manual_seed(1), None)
    watched = torch.unique(HISTORY[HISTORY > 0])
    assert refined == [len(watched)] and len(watched) < len(inputs.videos)
    rows = torch.searchsorted(inputs.videos, HISTORY[HISTORY > 0])
    again, _ = model.encode_history(  # nothing is drawn: as if every video were refined, and then only these
        inputs.content, scene, rows, torch.zeros(len(rows), 16), torch.zeros(len(rows), 16), held=torch.unique(rows)
    )
    whole, _ = model.encode_history(inputs.content, scene, rows, torch.zeros(len(rows), 16), torch.zeros(len(rows), 16))
    assert torch.equal(again.z, whole.z) and clean.z.shape == (*HISTORY.shape, 16)


def test_each_poorer_video_loses_its_pictures_or_its_sound(packed: Packed) -> None:
    content = packed.content.gather(torch.arange(6, 30))
    poorer = step._poorer(content, torch.Generator().manual_seed(1))
    lost = content.available & ~poorer.available
    assert bool((lost[:, VIDEO] ^ lost[:, AUDIO]).all())
    assert torch.equal(poorer.available[:, 2], content.available[:, 2])


def test_the_positions_divisor_scales_every_loss(packed: Packed) -> None:
    model, inputs = model_of(packed), inputs_of(packed)
    model.train()

    def total(positions: float) -> float:
        rng = torch.Generator().manual_seed(3)
        return float(joint_loss(model, model, inputs, LossWeights(), positions, rng).total.detach())

    assert total(4.0) == pytest.approx(2 * total(8.0), rel=1e-5)


def test_every_part_of_the_model_gets_a_gradient_in_the_joint_stage(packed: Packed) -> None:
    model, inputs = model_of(packed), inputs_of(packed)
    with torch.no_grad():  # zero at the start, so that nothing behind them learns in the first step
        model.salience.query.weight.normal_()
        model.tcd.denoiser.out.weight.normal_()
    model.train()
    joint_loss(model, model_of(packed), inputs, LossWeights(), 10.0, torch.Generator().manual_seed(3)).total.backward()  # type: ignore[no-untyped-call]
    without = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    touched = {
        name.split(".")[0]
        for name, p in model.named_parameters()
        if p.grad is not None and float(p.grad.abs().sum()) > 0
    }
    assert {"ids", "tokeniser", "guidance", "tcd", "salience", "fusion", "backbone", "npd", "condition"} <= touched
    assert without <= {"npd", "guidance"}  # nothing but unused biases


def gradients(packed: Packed, npd: Npd, weights: LossWeights) -> dict[str, torch.Tensor]:
    """Of what is learned from corrupted histories alone, those that are not zero."""
    model, inputs, rng = model_of(packed, npd), inputs_of(packed), torch.Generator().manual_seed(5)
    if isinstance(model.npd, PreferenceDenoiser):  # zero at the start, so that nothing reaches what it reads
        for layer in (model.npd.noise, model.npd.residual):
            nn.init.normal_(layer.weight, std=0.1)
    drawn = corruption.Draw(torch.full((3,), corruption.GAUSSIAN), torch.full((3,), 0.5))
    held, stripped = step._encode_history(model, inputs, model.scene(inputs.content), rng, drawn)
    _, vectors = step._candidate_vectors(model, inputs, weights, rng)
    clean = Clean(held, stripped, inputs.history, inputs.target)
    step._recovery(model, model_of(packed, npd), clean, inputs, vectors, drawn, weights, rng)[0].backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: gradient for name, gradient in found.items() if float(gradient.abs().sum()) > 0}


def test_what_a_denoiser_before_the_backbone_learns_from_reaches_nothing_else(packed: Packed) -> None:
    assert {name.split(".")[0] for name in gradients(packed, "blind", LossWeights())} == {"npd"}
    assert {"npd", "backbone", "ids"} <= {name.split(".")[0] for name in gradients(packed, "state", LossWeights())}


def test_histories_that_lost_all_their_items_cost_nothing_and_leave_no_nan(packed: Packed) -> None:
    history, target = torch.tensor([[6]]), torch.tensor([[7]])
    videos = distinct(history, target)
    inputs = inputs_of(packed)._replace(
        history=history, target=target, videos=videos, content=packed.content.gather(videos)
    )
    model, drawn = model_of(packed), corruption.Draw(torch.tensor([corruption.INTERACTION]), torch.tensor([1.0]))
    empty = 0
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        held, stripped = step._encode_history(model, inputs, model.scene(inputs.content), rng, drawn)
        clean = Clean(held, stripped, history, target)
        _, vectors = step._candidate_vectors(model, inputs, LossWeights(), rng)
        state = rng.get_state()
        empty += not bool(corrupted_history(clean, drawn, 8, rng).mask.any())
        rng.set_state(state)
        loss, parts = step._recovery(model, model_of(packed), clean, inputs, vectors, drawn, LossWeights(), rng)
        assert all(math.isfinite(value) for value in (float(loss.detach()), *parts.values())), seed
    assert empty


def test_the_estimate_of_the_noise_is_trained_by_its_own_weight(packed: Packed) -> None:
    weights = LossWeights(npd=0.0)
    without = gradients(packed, "blind", replace(weights, noise=0.0)).get("npd.noise.weight", torch.zeros(1))
    once, twice = (gradients(packed, "blind", replace(weights, noise=w))["npd.noise.weight"] for w in (1.0, 2.0))
    assert float((once - without).abs().max()) > 0
    assert torch.allclose(twice - without, 2 * (once - without), atol=1e-6)


def test_each_distinct_video_of_a_step_is_tokenised_and_refined_once(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, inputs = replace(model_of(packed).settings, personal="pooling"), inputs_of(packed)
    model, teacher = MealRec(settings).train(), MealRec(settings)
    rows: dict[str, list[int]] = {"scene": [], "refine": []}
    scene, refine = model.scene, model.refine

    def count_scene(content: Content) -> Scene:
        rows["scene"].append(len(content.available))
        return scene(content)

    def count_refine(seen: Scene, condition: torch.Tensor) -> torch.Tensor:
        rows["refine"].append(len(condition))
        return refine(seen, condition)

    monkeypatch.setattr(step, "behind_zeros", lambda videos: videos)
    monkeypatch.setattr(model, "scene", count_scene)
    monkeypatch.setattr(model, "refine", count_refine)
    noisy = corruption.Draw(torch.full((3,), corruption.GAUSSIAN), torch.full((3,), 0.5))
    monkeypatch.setattr(corruption, "draw", lambda viewers, rng: noisy)  # no modality is lost, which is seen anew
    joint_loss(model, teacher, inputs, LossWeights(), 10.0, torch.Generator().manual_seed(3))
    once, watched = len(inputs.videos), len(torch.unique(HISTORY[HISTORY > 0]))
    assert {name: sum(found) for name, found in rows.items()} == {"scene": once, "refine": watched}
    assert watched < once < int((HISTORY > 0).sum() + (TARGET > 0).sum())


def test_strangers_are_valid_items_of_other_viewers(packed: Packed) -> None:
    mask = HISTORY > 0
    z = torch.where(mask, torch.arange(3)[:, None] + 1.0, 0.0)[..., None]  # every item says whose it is
    drawn = torch.cat([strangers(z, mask, torch.Generator().manual_seed(s)) for s in range(50)], 2)
    assert float(drawn.min()) > 0
    for viewer in range(3):
        assert set(drawn[viewer].flatten().tolist()) == {1.0, 2.0, 3.0} - {viewer + 1.0}


def test_the_denoisers_gradients_are_clipped_apart_from_the_models(packed: Packed) -> None:
    model = model_of(packed)
    own, others = clipped(model)
    assert {id(p) for p in own} == {id(p) for p in model.npd.parameters()}
    assert len(own) + len(others) == len(list(model.parameters()))
    model.npd.requires_grad_(False)
    assert [id(p) for group in clipped(model) for p in group] == [id(p) for p in others]
