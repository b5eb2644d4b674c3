"""What must hold of the model whatever its weights (model.md 7)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mealrec.data.packed import Packed
from mealrec.model.content import AUDIO, TEXT, Content
from mealrec.model.corruption import KINDS
from mealrec.model.inference import catalogue_tokens, describe_range, preference
from mealrec.model.layers import AttentionLayer, key_mask, project_unit, rms_norm
from mealrec.model.mealrec import History, MealRec
from mealrec.model.npd import NEWEST, PreferenceDenoiser, StateDenoiser, running_mean
from mealrec.model.settings import ModelSettings
from tests.conftest import write_packed


def model_of(packed: Packed, **changes: object) -> MealRec:
    torch.manual_seed(0)
    model = MealRec(ModelSettings(**packed.content.dims, width=16, max_history=8, **changes))  # type: ignore[arg-type]
    # zero-initialised outputs would hide differences: give them something to say
    with torch.no_grad():
        model.tcd.denoiser.out.weight.normal_(std=0.3)
        is_behind = isinstance(model.npd, StateDenoiser)
        (model.npd.feed[-1] if is_behind else model.npd.residual).weight.normal_(std=0.3)  # type: ignore[union-attr]
        if not is_behind:
            model.npd.noise.weight.normal_(std=0.3)  # type: ignore[union-attr]
    return model.eval()


def some(packed: Packed, *items: int) -> Content:
    return packed.content.gather(torch.tensor(items))


def encoded(model: MealRec, content: Content) -> tuple[Tensor, Tensor]:
    n = len(content.text)
    ids = torch.zeros(n, 16)
    out = model.encode(model.scene(content), content, ids, model.conditions(None, ids))
    return out.z, out.salience


@pytest.mark.parametrize("npd", ["blind", "told"])
@torch.no_grad()
def test_a_denoiser_at_some_places_gives_what_it_gives_in_the_whole_history(packed: Packed, npd: str) -> None:
    model = model_of(packed, npd=npd).eval()
    assert isinstance(model.npd, PreferenceDenoiser)
    rng = torch.Generator().manual_seed(0)
    z, before, after = torch.randn(3, 2, 5, 16, generator=rng)
    mask = torch.tensor([[False, False, True, True, True], [True] * 5])
    told = torch.rand(2, KINDS + 1, generator=rng) if npd == "told" else None
    whole = model.npd(z, before, after, mask, told)
    newest = torch.zeros_like(mask)
    newest[:, -1] = True
    here = None if told is None else told[mask.nonzero()[:, 0]]
    residual, noise = model.npd.at(z[mask], before[mask], after[mask], newest[mask], here)
    assert torch.allclose(whole.z[mask], z[mask] + residual, atol=1e-6) and float(residual.abs().max()) > 0
    assert torch.allclose(whole.noise[mask], noise, atol=1e-6)
    assert torch.equal(whole.z[~mask], z[~mask])
    older, _ = model.npd.at(z[mask], before[mask], after[mask], torch.zeros_like(newest[mask]), here)
    assert torch.allclose(residual, torch.where(newest[mask][:, None], NEWEST, 1.0) * older)


@pytest.mark.parametrize("npd", ["blind", "told", "state"])
def test_an_untrained_denoiser_leaves_the_preference_as_it_is(packed: Packed, npd: str) -> None:
    model = MealRec(ModelSettings(**packed.content.dims, width=16, max_history=8, npd=npd)).eval()  # type: ignore[arg-type]
    mask = torch.ones(3, 5, dtype=torch.bool)
    history = History(torch.randn(3, 5, 16), torch.randn(3, 5, 16), mask)
    assert torch.equal(model.preferences(history), model.states(history))


def test_what_is_expected_at_a_position_does_not_come_from_the_item_there(packed: Packed) -> None:
    model = model_of(packed)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, :2] = False
    z = torch.randn(2, 5, 16) * mask[..., None]
    changed = z.clone()
    changed[:, 3] = torch.randn(2, 16)
    (before, after), (other_before, other_after) = model.contexts(z, mask), model.contexts(changed, mask)
    assert torch.allclose(before[:, :4][mask[:, :4]], other_before[:, :4][mask[:, :4]], atol=1e-6)
    assert torch.allclose(after[:, 3:], other_after[:, 3:], atol=1e-6)
    assert not torch.allclose(before[:, 4], other_before[:, 4], atol=1e-4)
    assert not torch.allclose(after[:, 2], other_after[:, 2], atol=1e-4)


def test_padding_does_not_change_what_a_denoiser_makes_of_a_history(packed: Packed) -> None:
    model = model_of(packed)
    z = torch.randn(1, 3, 16)
    short = model.recover(History(z, z, torch.ones(1, 3, dtype=torch.bool)))
    longer = torch.cat([torch.zeros(1, 2, 16), z], 1)
    padded = model.recover(History(longer, longer, torch.tensor([[False, False, True, True, True]])))
    assert torch.allclose(short.z, padded.z[:, 2:], atol=1e-5) and not bool(padded.z[:, :2].any())
    assert torch.allclose(short.noise, padded.noise[:, 2:], atol=1e-5)


def test_padding_frames_change_nothing(packed: Packed) -> None:
    model, content = model_of(packed), some(packed, 1, 2, 6)
    longer = replace(
        content,
        visual=torch.cat([content.visual, 99 * torch.ones_like(content.visual[:, :2])], 1),
        audio=torch.cat([content.audio, 99 * torch.ones_like(content.audio[:, :2])], 1),
        position=torch.cat([content.position, torch.ones_like(content.position[:, :2])], 1),
        frame_mask=torch.cat([content.frame_mask, torch.zeros(3, 2, dtype=torch.bool)], 1),
    )
    z, salience = encoded(model, content)
    z_longer, salience_longer = encoded(model, longer)
    assert torch.allclose(z, z_longer, atol=1e-5)
    assert torch.allclose(salience, salience_longer[:, : salience.shape[1]], atol=1e-5)
    assert float(salience_longer[:, salience.shape[1] :].abs().max()) == 0.0


def test_what_is_masked_is_not_read_and_gets_no_gradient(packed: Packed) -> None:
    model, content = model_of(packed), some(packed, 3, 4)
    assert not content.available[0, AUDIO] and not content.available[1, TEXT]
    content = replace(content, audio=content.audio.requires_grad_(), text=content.text.requires_grad_())
    encoded(model, content)[0].square().sum().backward()
    assert float(content.audio.grad[0].abs().max()) == 0.0  # type: ignore[index]
    assert float(content.text.grad[1].abs().max()) == 0.0  # type: ignore[index]
    assert float(content.audio.grad[1].abs().max()) > 0.0  # type: ignore[index]
    assert float(content.text.grad[0].abs().max()) > 0.0  # type: ignore[index]


def test_a_video_without_any_content_is_legal(packed: Packed) -> None:
    z, salience = encoded(model_of(packed), some(packed, 5))
    assert bool(torch.isfinite(z).all())
    assert float(salience.abs().max()) == 0.0


def test_salience_is_a_distribution_over_the_valid_frames(packed: Packed) -> None:
    content = some(packed, 1, 2, 6)
    _, salience = encoded(model_of(packed), content)
    assert torch.allclose(salience.sum(1), torch.ones(3))
    assert bool((salience[~content.frame_mask] == 0).all())


def test_the_order_of_frames_matters_through_the_guidance(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "full", frames=4)
    model = model_of(packed)
    content = replace(some(packed, 1), frame_mask=torch.ones(1, 4, dtype=torch.bool))
    turned = replace(content, visual=content.visual.flip(1), audio=content.audio.flip(1))
    assert not torch.allclose(encoded(model, content)[0], encoded(model, turned)[0], atol=1e-4)


def test_without_guidance_and_redundancy_the_order_of_frames_does_not_matter(packed: Packed) -> None:
    model = opinionated(packed)
    content = replace(some(packed, 1), frame_mask=torch.ones(1, 4, dtype=torch.bool))
    turned = replace(content, visual=content.visual.flip(1), audio=content.audio.flip(1))

    def blind(part: Content) -> Tensor:
        scene = model.scene(part)
        scene = scene._replace(
            g=torch.zeros_like(scene.g), g_mean=torch.zeros_like(scene.g_mean), redundancy=0 * scene.redundancy
        )
        ids = torch.zeros(1, 16)
        return model.encode(scene, part, ids, model.conditions(None, ids)).z

    assert torch.allclose(blind(content), blind(turned), atol=1e-5)


def test_modes_agree_when_the_condition_has_no_weight(packed: Packed) -> None:
    model, content = model_of(packed), some(packed, 1, 2)
    ids, users = torch.randn(2, 16), torch.randn(2, 16)
    scene = model.scene(content)
    personal = model.encode(scene, content, ids, model.conditions(users, ids)).z
    general = model.encode(scene, content, ids, model.conditions(None, ids)).z
    assert not torch.allclose(personal, general, atol=1e-4)
    with torch.no_grad():
        model.condition.weight.zero_()
    personal = model.encode(scene, content, ids, model.conditions(users, ids)).z
    general = model.encode(scene, content, ids, model.conditions(None, ids)).z
    assert torch.allclose(personal, general)


def test_states_do_not_see_later_items(packed: Packed) -> None:
    model = model_of(packed)
    mask = torch.ones(1, 6, dtype=torch.bool)
    z = torch.randn(1, 6, 16)
    changed = z.clone()
    changed[:, 4] = torch.randn(16)
    first = model.states(History(z, z, mask))
    second = model.states(History(changed, changed, mask))
    assert torch.allclose(first[:, :4], second[:, :4], atol=1e-6)
    assert not torch.allclose(first[:, 4], second[:, 4], atol=1e-4)


def test_the_condition_of_a_position_does_not_see_its_own_or_later_items(packed: Packed) -> None:
    model = model_of(packed)
    mask = torch.ones(1, 4, dtype=torch.bool)
    users = model.users_before(model.ids(torch.tensor([[1, 2, 3, 4]])), mask)
    other = model.users_before(model.ids(torch.tensor([[1, 2, 9, 8]])), mask)
    assert torch.allclose(users[:, :3], other[:, :3])
    assert not torch.allclose(users[:, 3], other[:, 3], atol=1e-5)


def test_left_padding_does_not_change_a_preference(packed: Packed) -> None:
    model = model_of(packed)
    short = preference(model, packed.content.gather, torch.tensor([[1, 2, 3]])).state
    padded = preference(model, packed.content.gather, torch.tensor([[0, 0, 1, 2, 3]])).state
    assert torch.allclose(short, padded, atol=1e-5)


def test_a_viewer_without_history_gets_a_finite_state(packed: Packed) -> None:
    state = preference(model_of(packed), packed.content.gather, torch.tensor([[0, 0]])).state
    assert bool(torch.isfinite(state).all())


def test_cached_vectors_equal_live_ones(packed: Packed) -> None:
    model = model_of(packed)
    cached = describe_range(model, packed.content.gather, 1, packed.items + 1, chunk=7)
    described = torch.cat([torch.zeros(1, 16), cached.described])
    vectors = model.catalogue(described, packed.content.available(), packed.content.log_popularity())
    index = torch.arange(1, packed.items + 1)
    content = packed.content.gather(index)
    ids = model.id_vectors(index, content.log_popularity)
    live = model.encode(model.scene(content), content, ids, model.conditions(None, ids)).z
    assert torch.allclose(vectors[1:], live, atol=1e-3)


def test_more_refinement_steps_are_deterministic_and_differ_from_one(packed: Packed) -> None:
    content = some(packed, 1, 2)
    one, four = model_of(packed), model_of(packed, refine_steps=4)
    assert torch.equal(encoded(four, content)[0], encoded(four, content)[0])
    assert not torch.allclose(encoded(one, content)[0], encoded(four, content)[0], atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"tcd": "mean"},
        {"tcd": "attention"},
        {"guidance": False},
        {"collaborative": False},
        {"personal": "pooling"},
        {"refine_from": "noise", "refine_steps": 4},
        {"predict": "noise"},
        {"npd": "off"},
        {"npd": "augment"},
        {"npd": "state"},
        {"content": False},
    ],
    ids=str,
)
def test_each_switch_changes_the_preference(packed: Packed, change: dict[str, object]) -> None:
    history = torch.tensor([[1, 2, 3, 6]])
    on = preference(opinionated(packed), packed.content.gather, history).state
    off = preference(opinionated(packed, **change), packed.content.gather, history).state
    assert bool(torch.isfinite(off).all()) and not torch.allclose(on, off, atol=1e-4)


def opinionated(packed: Packed, **changes: object) -> MealRec:
    """A model whose salience looks at its condition (untrained it weighs all frames alike)."""
    model = model_of(packed, **changes)
    with torch.no_grad():
        model.salience.query.weight.normal_(std=1.0)
    return model


def test_a_switch_names_its_valid_values(packed: Packed) -> None:
    with pytest.raises(ValueError, match="npd='blnd'; valid: blind, told, state, augment, off"):
        model_of(packed, npd="blnd")


def test_cached_tokens_give_the_live_preference(packed: Packed) -> None:
    model = opinionated(packed, personal="pooling")
    history = torch.tensor([[0, 1, 2, 3], [7, 4, 5, 6]])
    tokens = catalogue_tokens(model, packed.content.gather, packed.items, chunk=7)
    live = preference(model, packed.content.gather, history)
    cached = preference(model, packed.content.gather, history, tokens)
    assert torch.allclose(live.state, cached.state, atol=1e-5)
    assert torch.allclose(live.salience, cached.salience, atol=1e-5)
    assert catalogue_tokens(opinionated(packed), packed.content.gather, packed.items) is None


def test_without_guidance_only_redundancy_sees_the_order(packed: Packed) -> None:
    model = opinionated(packed, guidance=False)
    with torch.no_grad():
        model.salience.redundancy.fill_(-40.0)  # softplus of it is 0
    content = replace(some(packed, 1), frame_mask=torch.ones(1, 4, dtype=torch.bool))
    turned = replace(content, visual=content.visual.flip(1), audio=content.audio.flip(1))
    assert torch.allclose(encoded(model, content)[0], encoded(model, turned)[0], atol=1e-5)


def test_a_duplicate_of_the_frame_before_weighs_less(packed: Packed) -> None:
    content = replace(some(packed, 1), frame_mask=torch.ones(1, 4, dtype=torch.bool))
    visual, audio = content.visual.clone(), content.audio.clone()
    visual[:, 2], audio[:, 2] = visual[:, 1], audio[:, 1]
    _, weight = encoded(model_of(packed), replace(content, visual=visual, audio=audio))
    assert float(weight[0, 2]) < 0.9 * float(weight[0, 1])


def test_the_unusual_signal_is_zero_for_an_untrained_denoiser_and_positive_for_a_moved_state(packed: Packed) -> None:
    history = torch.tensor([[1, 2, 3]])
    untrained = MealRec(ModelSettings(**packed.content.dims, width=16, max_history=8)).eval()
    assert float(preference(untrained, packed.content.gather, history).unusual) == 0.0
    assert float(preference(model_of(packed), packed.content.gather, history).unusual) > 0.0


def test_a_mean_is_taken_over_what_was_seen_so_far() -> None:
    values = torch.tensor([[[9.0], [2.0], [4.0]]])
    mask = torch.tensor([[False, True, True]])
    assert running_mean(values, mask)[0, :, 0].tolist() == [0.0, 2.0, 3.0]


def test_a_layer_that_is_asked_for_its_last_places_gives_what_the_whole_one_gives_there() -> None:
    torch.manual_seed(0)
    layer, x = AttentionLayer(16, 2), torch.randn(3, 7, 16)
    mask = key_mask(torch.rand(3, 7) < 0.7)
    assert torch.allclose(layer(x, mask, last=4), layer(x, mask)[:, -4:], atol=1e-6)


def test_features_are_projected_as_if_they_had_been_normalised_before() -> None:
    features, weight = torch.randn(5, 3, 24) * 40, torch.randn(8, 24)
    features[2] = 0
    assert torch.allclose(project_unit(features, weight), rms_norm(features) @ weight.T, rtol=1e-4, atol=1e-4)
    assert project_unit(torch.zeros(2, 3, 0), torch.zeros(8, 0)).shape == (2, 3, 8)
