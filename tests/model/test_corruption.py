"""Corruptions: what each kind does, and what may be trained on it."""

from __future__ import annotations

import torch
from torch import Tensor

from mealrec.model import corruption

B, L, D = 400, 6, 4


def vectors() -> tuple[Tensor, Tensor]:
    z = torch.arange(1, L + 1).float()[None, :, None].expand(B, L, D).clone()
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[:, 0] = False
    return z, mask


def corrupted(kind: int, level: float, longest: int = 2 * L) -> tuple[corruption.Corrupted, Tensor, Tensor]:
    z, mask = vectors()
    drawn = corruption.Draw(torch.full((B,), kind), torch.full((B,), level))
    substitutes, stripped = torch.full_like(z, 100.0), torch.full_like(z, 50.0)
    rng = torch.Generator().manual_seed(1)
    return corruption.corrupt(z, mask, drawn, substitutes, stripped, longest, rng), z, mask


def test_kinds_come_in_their_shares_and_levels_in_their_ranges() -> None:
    drawn = corruption.draw(20_000, torch.Generator().manual_seed(0))
    for kind, share in enumerate(corruption.KIND_SHARE):
        assert abs(float((drawn.kind == kind).float().mean()) - share) < 0.02
    sigma = drawn.level[drawn.kind == corruption.GAUSSIAN]
    assert float(sigma.min()) >= 0.05 and float(sigma.max()) <= 1.0
    assert float(drawn.level[drawn.kind == corruption.INTERACTION].max()) <= 0.5
    assert float(drawn.level[drawn.kind == corruption.CLEAN].abs().max()) == 0.0


def test_gaussian_noise_has_the_size_of_its_level_relative_to_each_item() -> None:
    out, z, mask = corrupted(corruption.GAUSSIAN, 0.5)
    z = z[:, 1:]  # padding in front is cut off
    relative = ((out.z - z) / z)[out.mask]
    assert abs(float(relative.std()) - 0.5) < 0.02
    assert torch.equal(out.mask, mask[:, 1:]) and bool(out.trusted.all())
    assert torch.allclose(out.noise, torch.tensor(0.2))  # 0.25 / 1.25 of the energy


def test_touched_interactions_are_replaced_dropped_joined_by_a_stranger_or_swapped() -> None:
    out, _, mask = corrupted(corruption.INTERACTION, 0.5)
    items = float(mask.sum())
    strange = (out.z == 100).all(-1) & out.mask
    assert torch.equal(strange, (out.noise == 1) & out.mask)
    own = [(out.place == at) & out.mask for at in range(1, L)]
    twice = sum(float((here.sum(1) == 2).sum()) for here in own)  # the item and a stranger behind it
    gone = sum(float((here.sum(1) == 0).sum()) for here in own)
    assert abs(twice / items - 0.1) < 0.02 and abs(gone / items - 0.1) < 0.02
    assert abs((float(strange.sum()) - twice) / items - 0.25) < 0.03
    assert 0.01 < float((~out.trusted & out.mask).sum()) / items < 0.04


def test_places_say_which_position_they_stand_for_in_order_and_without_gaps_at_the_end() -> None:
    out, _, _ = corrupted(corruption.INTERACTION, 0.5)
    assert bool((out.mask[:, 1:] >= out.mask[:, :-1]).all())
    both = out.mask[:, 1:] & out.mask[:, :-1]
    assert bool((out.place.diff(dim=1)[both] >= 0).all())
    own = out.mask & (out.noise == 0) & out.trusted
    own[:, 1:] &= out.trusted[:, :-1]  # the other half of a swap
    kept = own & (torch.cat([own[:, :1], out.trusted[:, :-1]], 1))
    assert float((out.z[..., 0] == out.place + 1)[kept].float().mean()) > 0.95


def test_the_newest_items_are_kept_when_strangers_make_a_history_too_long() -> None:
    out, _, _ = corrupted(corruption.INTERACTION, 0.5, longest=3)
    whole, _, _ = corrupted(corruption.INTERACTION, 0.5)
    assert out.mask.shape[1] == 3 and int(out.mask.sum(1).max()) == 3
    full = whole.mask.sum(1) >= 3
    assert torch.equal(out.z[full], whole.z[full][:, -3:])


def test_a_swap_exchanges_neighbours_and_is_not_trained_on() -> None:
    z = torch.arange(1, 5).float()[None, :, None].expand(B, 4, 1).clone()
    mask = torch.ones(B, 4, dtype=torch.bool)
    drawn = corruption.Draw(torch.full((B,), corruption.INTERACTION), torch.full((B,), 0.5))
    out = corruption.corrupt(z, mask, drawn, 100 * z, z, 8, torch.Generator().manual_seed(2))
    rows, at = (~out.trusted & out.mask).nonzero(as_tuple=True)
    assert len(rows) > 10
    for row, here in zip(rows.tolist(), at.tolist(), strict=True):
        place = int(out.place[row, here])
        # item number place + 1 sits at position `place` of a clean history; here it is the next one, or a stranger for it
        assert float(out.z[row, here, 0]) in (place + 2.0, 100.0 * (place + 2.0))


def test_a_lost_modality_takes_the_stripped_vectors_and_clean_is_clean() -> None:
    out, z, mask = corrupted(corruption.MODALITY, 0.5)
    assert bool((out.z == 50).all())
    out, z, mask = corrupted(corruption.CLEAN, 0.0)
    assert torch.equal(out.z, z[:, 1:]) and torch.equal(out.mask, mask[:, 1:]) and float(out.noise.max()) == 0.0


def test_a_history_that_lost_every_item_is_empty_and_not_broken() -> None:
    z, mask = torch.ones(50, 1, D), torch.ones(50, 1, dtype=torch.bool)
    drawn = corruption.Draw(torch.full((50,), corruption.INTERACTION), torch.ones(50))
    out = corruption.corrupt(z, mask, drawn, z, z, 4, torch.Generator().manual_seed(1))
    assert bool((out.mask.sum(1) == 0).any()) and bool(torch.isfinite(out.z).all())
