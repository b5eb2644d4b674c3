"""Noise-unconditional Preference Denoising (model.md 2.8): recover the preference from a corrupted history.

The level of a corruption is never passed to the network. Two places for the denoiser, both residual with a last layer that
starts at zero, so that it changes nothing at the start:

PreferenceDenoiser, the default, stands before the backbone: zhat = z + R(z), hhat = backbone(zhat). It sees every item
vector with what the backbone expects there from the items before it and from those after it, and estimates how much of the
item is noise. It differs from the specification, which denoises the final state, because there the level can no longer be
read (the backbone's attention averages it away and its last norm erases the size) and nothing says which item is odd.

StateDenoiser is the specification's form: hhat = h + R(h ; H). Both were measured: benchmarks/LOG.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.corruption import KINDS, description, untouched
from mealrec.model.layers import Dropout, causal_mask

# Of the newest item only a part of what is called noise is taken out: nothing after it can speak for it, and every newest item
# of training was learned by heart, so that a viewer's true one looks more like a stranger (measured: benchmarks/LOG.md)
NEWEST = 0.3
NOISE_START = -3.0  # logit: an item is taken for clean until the denoiser has learned otherwise


class Recovered(NamedTuple):
    """zhat [B, L, D] and, for each item, the logit [B, L] of the share of it that is noise."""

    z: Tensor
    noise: Tensor


class PreferenceDenoiser(nn.Module):
    """zhat_l = z_l + n_l R[z_l ; b_l ; a_l], n_l = sigmoid(N(z_l, b_l, a_l)), less for the newest: R starts at zero.

    b_l and a_l are the states that the backbone has before item l, read forwards, and after it, read backwards. N, a small
    MLP, also sees the products b * z and a * z, whose sum is the score that the backbone gives the item there. Reads the
    whole window, so only the newest state may be trained on what comes after it."""

    def __init__(self, width: int, *, told: bool = False, dropout: float = 0.2) -> None:
        super().__init__()
        self.width = width
        self.told = nn.Linear(KINDS + 1, 2 * width) if told else None  # A5 alone: the level and kind
        self.norm = nn.LayerNorm(5 * width)
        self.level = nn.Linear(5 * width + 3, 2 * width)
        self.noise = nn.Linear(2 * width, 1)
        self.residual = nn.Linear(3 * width, width)
        self.drop = Dropout(dropout)
        nn.init.zeros_(self.noise.weight)
        nn.init.constant_(self.noise.bias, NOISE_START)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(self, z: Tensor, before: Tensor, after: Tensor, mask: Tensor, told: Tensor | None = None) -> Recovered:
        """One blind step for items z, contexts before and after [B, L, D], mask [B, L]; told [B, KINDS + 1] only for a denoiser
        that was made to be told."""
        newest = torch.zeros_like(mask)
        newest[:, -1] = True
        if self.told is not None:
            told = (description(untouched(len(z), z.device)) if told is None else told)[:, None]
        residual, noise = self.at(z, before, after, newest, told)
        return Recovered(z + residual * mask[..., None], noise)

    def at(
        self, z: Tensor, before: Tensor, after: Tensor, newest: Tensor, told: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What is added to the items of any places z, before, after [..., D], newest [...] bool, told [..., KINDS + 1], and the
        logits of the share of each that is noise [...]: no place looks at another."""
        features = self.norm(torch.cat([z, before, after, z * before, z * after], -1))
        root = self.width**0.5
        fits = [(z * context).sum(-1, keepdim=True) / root for context in (before, after)]
        # the size, which tells a level, is not normalised away
        size = z.square().mean(-1, keepdim=True).add(1e-8).log()
        hidden = self.level(torch.cat([features, *fits, size], -1))
        if self.told is not None:
            hidden = hidden + self.told(told)
        noise = self.noise(self.drop(F.gelu(hidden)))[..., 0]
        share = torch.sigmoid(noise) * torch.where(newest, NEWEST, 1.0)
        return share[..., None] * self.residual(torch.cat([z, before, after], -1)), noise


class StateDenoiser(nn.Module):
    """hhat_l = h_l + R(h_l ; H_{<=l}, content mean_{<=l}): one causal cross-attention and an MLP, last layer zero (2.8 as
    specified).

    Its input features are [h / rms(h) ; log rms(h)]: a layer norm alone would erase the norm that tells the noise level."""

    def __init__(self, width: int, *, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width + 1, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.feed = nn.Sequential(nn.Linear(3 * width + 1, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        last = self.feed[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, states: Tensor, mask: Tensor, content_mean: Tensor) -> Tensor:
        """Denoised states [B, L, D] of states [B, L, D], mask [B, L], content_mean [B, L, D] (of the history so far)."""
        rms = states.square().mean(-1, keepdim=True).add(1e-8).sqrt()
        features = torch.cat([states / rms, rms.log()], -1)
        b, length, width = states.shape
        q = self.query(features).view(b, length, self.heads, width // self.heads).transpose(1, 2)
        k, v = self.key_value(states).view(b, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        allowed = causal_mask(mask)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        seen = torch.where(allowed.any(-1, keepdim=True), seen, torch.zeros_like(seen))
        seen = seen.transpose(1, 2).reshape(b, length, width)
        out: Tensor = self.feed(torch.cat([features, seen, content_mean], -1))
        return states + out * mask[..., None]


def running_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [B, L, D] over the valid positions up to each one."""
    total = (values * mask[..., None]).cumsum(1)
    return total / mask.cumsum(1).clamp(min=1)[..., None]
