"""Noise-unconditional Preference Denoising (model.md 2.8): recover the preference state from a corrupted history.

The level of a corruption is never passed to the network. Noise is added to the whole sequence of item vectors rather than
to the final state: many numbers sharing a level make it identifiable (model.md 2.8.1 and 11). The denoiser predicts the
clean state as a residual whose last layer starts at zero, so it cannot harm at the start.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.layers import causal_mask

GAUSSIAN, INTERACTION, MODALITY, CLEAN = range(4)
KINDS = 4
KIND_SHARE = (0.5, 0.35, 0.1, 0.05)
SIGMA = (0.05, 1.0)
MAX_RATE = 0.5


class Draw(NamedTuple):
    """One corruption a viewer: kind [B] (GAUSSIAN, INTERACTION, MODALITY, CLEAN) and, for tests and diagnostics only, its
    level [B] (sigma, or the share of items touched; 0 for CLEAN)."""

    kind: Tensor
    level: Tensor


class Corrupted(NamedTuple):
    """A corrupted history: z [B, L, D], mask [B, L]; trusted [B, L] marks positions whose prediction may be trained (a swap
    can move a position's own target into its input)."""

    z: Tensor
    mask: Tensor
    trusted: Tensor


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
    z: Tensor, mask: Tensor, drawn: Draw, substitutes: Tensor, stripped: Tensor, generator: torch.Generator
) -> Corrupted:
    """Apply the drawn corruption to item vectors z [B, L, D].

    substitutes [B, L, D]: vectors of popularity-sampled items; stripped [B, L, D]: the same items with a modality taken away
    (equal to z where none was). Dropped items leave a hole in the mask, so positions keep their targets.
    """
    noise = torch.randn(z.shape, generator=generator, device=z.device)
    scale = z.square().mean(-1, keepdim=True).sqrt().detach()  # rms of each item vector
    noisy = z + drawn.level[:, None, None] * scale * noise
    touched = (torch.rand(mask.shape, generator=generator, device=z.device) < drawn.level[:, None]) & mask
    action = torch.rand(
        mask.shape, generator=generator, device=z.device
    )  # half replaced, a quarter dropped, a quarter swapped
    is_interaction = (drawn.kind == INTERACTION)[:, None]
    replaced, dropped = touched & (action < 0.5) & is_interaction, touched & (action >= 0.5) & (action < 0.75)
    swapped = _swaps(touched & (action >= 0.75) & is_interaction, mask)
    out = torch.where((drawn.kind == GAUSSIAN)[:, None, None], noisy, z)
    out = torch.where((drawn.kind == MODALITY)[:, None, None], stripped, out)
    out = torch.where(replaced[..., None], substitutes, out)
    later, earlier = torch.roll(out, -1, 1), torch.roll(out, 1, 1)
    was_swapped = torch.roll(swapped, 1, 1)  # position l + 1 of a swap that starts at l
    out = torch.where(swapped[..., None], later, torch.where(was_swapped[..., None], earlier, out))
    return Corrupted(out, mask & ~(dropped & is_interaction), ~swapped)


def _swaps(wanted: Tensor, mask: Tensor) -> Tensor:
    """Where a position changes places with the next one: no chains, both valid, never over the end."""
    next_valid = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    wanted = wanted & mask & next_valid
    even = torch.arange(mask.shape[1], device=mask.device) % 2 == 0
    return wanted & even


class PreferenceDenoiser(nn.Module):
    """hhat_l = h_l + R(h_l ; H_{<=l}, content mean_{<=l}): one causal cross-attention and an MLP, last layer zero.

    Its input features are [h / rms(h) ; log rms(h)]: a layer norm alone would erase the norm that tells the noise level."""

    def __init__(self, width: int, *, heads: int = 2, told: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.told = nn.Linear(KINDS + 1, width) if told else None  # A5 alone: the level and kind, never used by default
        self.query = nn.Linear(width + 1, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.feed = nn.Sequential(nn.Linear(3 * width + 1, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        last = self.feed[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def residual(self, states: Tensor, mask: Tensor, content_mean: Tensor, told: Tensor | None = None) -> Tensor:
        """R [B, L, D] for states [B, L, D], mask [B, L], content_mean [B, L, D] (mean content of the history so far);
        told [B, KINDS + 1] only for a denoiser made to be told."""
        rms = states.square().mean(-1, keepdim=True).add(1e-8).sqrt()
        features = torch.cat([states / rms, rms.log()], -1)
        b, length, width = states.shape
        if self.told is not None:
            told = description(untouched(b, states.device)) if told is None else told
            content_mean = content_mean + self.told(told)[:, None]
        q = self.query(features).view(b, length, self.heads, width // self.heads).transpose(1, 2)
        k, v = self.key_value(states).view(b, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        allowed = causal_mask(mask)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        seen = torch.where(allowed.any(-1, keepdim=True), seen, torch.zeros_like(seen))
        seen = seen.transpose(1, 2).reshape(b, length, width)
        out: Tensor = self.feed(torch.cat([features, seen, content_mean], -1))
        return out * mask[..., None]

    def forward(self, states: Tensor, mask: Tensor, content_mean: Tensor, told: Tensor | None = None) -> Tensor:
        """One blind step: the denoised states [B, L, D]."""
        return states + self.residual(states, mask, content_mean, told)


def running_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, L, D] over the valid positions up to each one."""
    total = (values * mask[..., None]).cumsum(1)
    return total / mask.cumsum(1).clamp(min=1)[..., None]
