"""Temporal guidance (model.md 2.2): what each frame means in the order of its video."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mealrec.model.content import Content
from mealrec.model.layers import AttentionLayer, key_mask, sinusoid
from mealrec.model.tokeniser import Tokens

GUIDANCE_HEADS = 4
TIME_SCALE = 100.0  # positions are in [0, 1]; hundredths of a video are what the sinusoids should tell apart


class TemporalGuidance(nn.Module):
    """g_{1:F} = one bidirectional layer over W_g[x ; delta] + PE(position); independent of the viewer.

    enabled False (A2): g = 0, so that nothing of the frames' order or change is left."""

    def __init__(self, width: int, *, enabled: bool = True) -> None:
        super().__init__()
        self.width, self.enabled = width, enabled
        self.mix = nn.Linear(2 * width, width)
        self.layer = AttentionLayer(width, GUIDANCE_HEADS)

    def forward(self, tokens: Tokens, content: Content) -> tuple[Tensor, Tensor]:
        """Returns g [n, F, D] and its masked mean [n, D]; a video without frames gives zeros."""
        if not self.enabled:
            return torch.zeros_like(tokens.x), tokens.x.new_zeros(tokens.x.shape[0], self.width)
        code = sinusoid(content.position, self.width, scale=TIME_SCALE)
        g = self.layer(self.mix(torch.cat([tokens.x, tokens.delta], -1)) + code, key_mask(tokens.mask))
        g = g * tokens.mask[..., None]
        return g, g.sum(1) / tokens.mask.sum(1, keepdim=True).clamp(min=1)
