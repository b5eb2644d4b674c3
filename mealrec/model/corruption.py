"""Corruptions of a history for Noise-unconditional Preference Denoising (model.md 2.8): one kind a viewer, at a random level.

B viewers, L positions of a history, M <= 2 L places of its corrupted copy, D width. Noise is added to the sequence of item
vectors: many numbers sharing a level make it identifiable (model.md 2.8.1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

GAUSSIAN, INTERACTION, MODALITY, CLEAN = range(4)
KINDS = 4
KIND_SHARE = (0.2, 0.6, 0.1, 0.1)
SIGMA = (0.05, 1.0)
MAX_RATE = 0.5
REPLACED, DROPPED, INSERTED = 0.5, 0.7, 0.9  # what happens to a touched item, as a running sum; the rest is swapped


class Draw(NamedTuple):
    """One corruption a viewer: kind [B] (GAUSSIAN, INTERACTION, MODALITY, CLEAN) and its level [B] (sigma, or the share of
    items touched; 0 for CLEAN). No denoiser is given it, but the one of ablation A5."""

    kind: Tensor
    level: Tensor


class Corrupted(NamedTuple):
    """A corrupted history, left-padded again: z [B, M, D], mask [B, M].

    place [B, M]: the position of the clean history that each one stands for, so that its target and content can be
    gathered; trusted [B, M]: places whose prediction may be trained (a swap can move a position's own target into its
    input); noise [B, M]: share of an item's energy that is not its own: 1 for a stranger, sigma^2 / (1 + sigma^2) under
    Gaussian noise, 0 for a clean item."""

    z: Tensor
    mask: Tensor
    place: Tensor
    trusted: Tensor
    noise: Tensor


def draw(viewers: int, generator: torch.Generator) -> Draw:
    """A kind and a level for each viewer: log sigma uniform in [log 0.05, log 1], rates uniform in [0, 0.5]."""
    device = generator.device
    kind = torch.multinomial(torch.tensor(KIND_SHARE, device=device), viewers, replacement=True, generator=generator)
    uniform = torch.rand(viewers, generator=generator, device=device)
    sigma = torch.exp(math.log(SIGMA[0]) + uniform * (math.log(SIGMA[1]) - math.log(SIGMA[0])))
    level = torch.where(kind == GAUSSIAN, sigma, uniform * MAX_RATE)
    return Draw(kind, torch.where(kind == CLEAN, torch.zeros_like(level), level))


def description(drawn: Draw) -> Tensor:
    """What a denoiser that is told gets to know: log(0.01 + level) and the kind, [B, KINDS + 1]. For ablation A5 alone."""
    kind = F.one_hot(drawn.kind, KINDS).to(drawn.level.dtype)
    return torch.cat([torch.log(0.01 + drawn.level)[:, None], kind], -1)


def untouched(viewers: int, device: torch.device) -> Draw:
    """The draw of histories that nothing was done to: the true level at serving time, as far as anyone knows."""
    kind = torch.full((viewers,), CLEAN, device=device)
    return Draw(kind, torch.zeros(viewers, device=device))


def corrupt(
    z: Tensor,
    mask: Tensor,
    drawn: Draw,
    substitutes: Tensor,
    stripped: Tensor,
    longest: int,
    generator: torch.Generator,
) -> Corrupted:
    """Apply the drawn corruption to item vectors z [B, L, D].

    substitutes [B, L, D]: vectors of popularity-sampled items, which replace items or are inserted after them; stripped
    [B, L, D]: the same items with a modality taken away (equal to z where none was). The newest `longest` items are kept."""
    device = z.device
    noisy = z + drawn.level[:, None, None] * _rms(z) * torch.randn(z.shape, generator=generator, device=device)
    touched = torch.rand(mask.shape, generator=generator, device=device) < drawn.level[:, None]
    touched = touched & mask & (drawn.kind == INTERACTION)[:, None]
    action = torch.rand(mask.shape, generator=generator, device=device)
    replaced = touched & (action < REPLACED)
    dropped = touched & (action >= REPLACED) & (action < DROPPED)
    inserted = touched & (action >= DROPPED) & (action < INSERTED)
    swapped = _swaps(touched & (action >= INSERTED), mask)
    out = torch.where((drawn.kind == GAUSSIAN)[:, None, None], noisy, z)
    out = torch.where((drawn.kind == MODALITY)[:, None, None], stripped, out)
    out = torch.where(replaced[..., None], substitutes, out)
    energy = torch.where(drawn.kind == GAUSSIAN, drawn.level.square() / (1 + drawn.level.square()), 0.0)
    noise = torch.where(replaced, 1.0, energy[:, None])
    out, noise = _exchange(out, swapped), _exchange(noise, swapped)
    place = torch.arange(mask.shape[1], device=device).expand_as(mask)
    whole = Corrupted(
        _interleave(out, substitutes),
        _interleave(mask & ~dropped, inserted),
        _interleave(place, place),
        _interleave(~swapped, torch.ones_like(swapped)),
        _interleave(noise, torch.ones_like(noise)),
    )
    return _newest(whole, longest)


def _rms(z: Tensor) -> Tensor:
    """Size of each item vector, as a constant."""
    return z.square().mean(-1, keepdim=True).sqrt().detach()


def _swaps(wanted: Tensor, mask: Tensor) -> Tensor:
    """Where a position changes places with the next one: no chains, both valid, never over the end."""
    next_valid = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    wanted = wanted & mask & next_valid
    even = torch.arange(mask.shape[1], device=mask.device) % 2 == 0
    return wanted & even


def _exchange(values: Tensor, swapped: Tensor) -> Tensor:
    """values [B, L] or [B, L, D], those at swapped positions in the place of the next ones and the other way round."""
    later, earlier = torch.roll(values, -1, 1), torch.roll(values, 1, 1)
    was_swapped = torch.roll(swapped, 1, 1)  # position l + 1 of a swap that starts at l
    if values.dim() == 3:
        swapped, was_swapped = swapped[..., None], was_swapped[..., None]
    return torch.where(swapped, later, torch.where(was_swapped, earlier, values))


def _interleave(first: Tensor, second: Tensor) -> Tensor:
    """[B, L, ...] twice -> [B, 2 L, ...], each of `second` after its one of `first`."""
    return torch.stack([first, second], 2).flatten(1, 2)


def _newest(whole: Corrupted, longest: int) -> Corrupted:
    """The newest `longest` valid places, moved to the end, as short as the batch allows."""
    mask = whole.mask & (whole.mask.long().flip(1).cumsum(1).flip(1) <= longest)
    order = torch.argsort(mask.long(), dim=1, stable=True)[:, -max(int(mask.sum(1).max()), 1) :]
    return Corrupted(
        whole.z.gather(1, order[..., None].expand(-1, -1, whole.z.shape[-1])),
        *(part.gather(1, order) for part in (mask, whole.place, whole.trusted, whole.noise)),
    )
