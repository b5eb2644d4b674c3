"""Frame tokens (model.md 2.1): frozen features of a frame and its sound become one token of unit RMS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.content import AUDIO, VIDEO, Content
from mealrec.model.layers import project_unit, rms_norm
from mealrec.model.settings import ModelSettings
from mealrec.model.summary import Summary


class Tokens(NamedTuple):
    """x [n, F, D] unit-RMS tokens, delta [n, F, D] = x_f - x_{f-1}, redundancy [n, F] = cos(x_f, x_{f-1}); the first
    frame has delta 0 and redundancy 0. mask [n, F]."""

    x: Tensor
    delta: Tensor
    redundancy: Tensor
    mask: Tensor


class FrameTokeniser(nn.Module):
    """x_f = RMSNorm(W_v Xv_f + W_a Xa_f + b); an absent modality contributes a learned constant instead."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.visual = nn.Linear(settings.visual_dim, width, bias=False) if settings.visual_dim else None
        self.audio = nn.Linear(settings.audio_dim, width, bias=False) if settings.audio_dim else None
        self.bias = nn.Parameter(torch.zeros(width))
        self.no_visual = nn.Parameter(torch.randn(width) * 0.02)
        self.no_audio = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, content: Content) -> Tokens:
        mask = content.frame_mask
        mixed = (
            self.bias
            + _part(self.visual, content.visual, content.available[:, VIDEO], self.no_visual)
            + _part(self.audio, content.audio, content.available[:, AUDIO], self.no_audio)
        )
        x = rms_norm(mixed) * mask[..., None]
        both = (mask[:, 1:] & mask[:, :-1])[..., None]
        delta = F.pad((x[:, 1:] - x[:, :-1]) * both, (0, 0, 1, 0))
        redundancy = F.pad(F.cosine_similarity(x[:, 1:], x[:, :-1], dim=-1) * both[..., 0], (1, 0))
        return Tokens(x, delta, redundancy, mask)

    def mean_token(self, summary: Summary, available: Tensor) -> Tensor:
        """One unit-RMS token [n, D] of the mean frame; available [n, 3]. The projections are linear, so this is the mean of the
        frames' tokens before each was normalised."""
        mixed = self.bias.expand(available.shape[0], -1)
        for projection, mean, kind, absent in (
            (self.visual, summary.visual, VIDEO, self.no_visual),
            (self.audio, summary.audio, AUDIO, self.no_audio),
        ):
            part = absent.expand_as(mixed)
            if projection is not None:
                part = torch.where(available[:, kind : kind + 1], projection(mean.to(projection.weight.dtype)), absent)
            mixed = mixed + part
        return rms_norm(mixed)


def _part(projection: nn.Linear | None, features: Tensor, available: Tensor, absent: Tensor) -> Tensor:
    if projection is None:
        return absent
    # scale by the feature's own norm: encoders differ by orders of magnitude
    projected = project_unit(features.to(projection.weight.dtype), projection.weight)
    return torch.where(available[:, None, None], projected, absent)
