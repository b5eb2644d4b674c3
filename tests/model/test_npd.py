"""Corruptions: what each kind does, and what may be trained on it."""

from __future__ import annotations

import torch
from torch import Tensor

from mealrec.model import npd

B, L, D = 400, 6, 4


def vectors() -> tuple[Tensor, Tensor]:
    z = torch.arange(1, L + 1).float()[None, :, None].expand(B, L, D).clone()
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[:, 0] = False
    return z, mask


def corrupted(kind: int, level: float) -> tuple[npd.Corrupted, Tensor, Tensor]:
    z, mask = vectors()
    drawn = npd.Draw(torch.full((B,), kind), torch.full((B,), level))
    substitutes, stripped = torch.full_like(z, 100.0), torch.full_like(z, 50.0)
    return npd.corrupt(z, mask, drawn, substitutes, stripped, torch.Generator().manual_seed(1)), z, mask


def test_kinds_come_in_their_shares_and_levels_in_their_ranges() -> None:
    drawn = npd.draw(20_000, torch.Generator().manual_seed(0))
    for kind, share in enumerate(npd.KIND_SHARE):
        assert abs(float((drawn.kind == kind).float().mean()) - share) < 0.02
    sigma = drawn.level[drawn.kind == npd.GAUSSIAN]
    assert float(sigma.min()) >= 0.05 and float(sigma.max()) <= 1.0
    assert float(drawn.level[drawn.kind == npd.INTERACTION].max()) <= 0.5
    assert float(drawn.level[drawn.kind == npd.CLEAN].abs().max()) == 0.0


def test_gaussian_noise_has_the_size_of_its_level_relative_to_each_item() -> None:
    out, z, mask = corrupted(npd.GAUSSIAN, 0.5)
    relative = ((out.z - z) / z)[mask]
    assert abs(float(relative.std()) - 0.5) < 0.02
    assert torch.equal(out.mask, mask) and bool(out.trusted.all())


def test_interactions_are_replaced_dropped_or_swapped() -> None:
    out, z, mask = corrupted(npd.INTERACTION, 0.5)
    replaced = (out.z == 100).all(-1) & mask
    dropped = mask & ~out.mask
    assert 0.2 < float(replaced[mask].float().mean()) < 0.3
    assert 0.09 < float(dropped[mask].float().mean()) < 0.16
    swapped = ~out.trusted
    assert float(swapped.float().mean()) > 0.02
    rows, at = swapped.nonzero(as_tuple=True)
    untouched = ~replaced[rows, at] & ~replaced[rows, at + 1]
    moved = out.z[rows, at, 0][untouched]
    # the later item came forward, unless it was itself replaced before the swap
    assert bool(((moved == z[rows, at + 1, 0][untouched]) | (moved == 100)).all())


def test_a_swap_never_reaches_over_the_end_or_into_padding() -> None:
    out, _, mask = corrupted(npd.INTERACTION, 0.5)
    assert bool(out.trusted[:, -1].all())
    assert bool(out.trusted[~mask].all())


def test_a_lost_modality_takes_the_stripped_vectors_and_clean_is_clean() -> None:
    out, z, mask = corrupted(npd.MODALITY, 0.5)
    assert bool((out.z == 50).all())
    out, z, mask = corrupted(npd.CLEAN, 0.0)
    assert torch.equal(out.z, z) and torch.equal(out.mask, mask)
