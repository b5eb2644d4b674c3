"""Fusion of a video's content with its trained ID (model.md 2.6).

The ID keeps a direct path and the gate decides per dimension how much content is added: z = e + gate * content. Content is in
from the first stage on: added to IDs that were trained alone it gained nothing (benchmarks/LOG.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.layers import project_unit
from mealrec.model.settings import ModelSettings

GATE_START = -1.0  # sigmoid(-1) = 0.27: content begins below the scale of a trained ID


class Fusion(nn.Module):
    """z_i = e_i + gate_i * c_i, c_i = MLP[v_i ; W_t Xt_i], gate from ID, content, what is available and popularity."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.text = nn.Linear(settings.text_dim, width) if settings.text_dim else None
        self.no_text = nn.Parameter(torch.randn(width) * 0.02)
        self.no_video = nn.Parameter(torch.randn(width) * 0.02)
        self.content = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.gate = nn.Linear(2 * width + 4, width)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, GATE_START)

    def describe(self, pooled: Tensor, text: Tensor, has_frames: Tensor, has_text: Tensor) -> Tensor:
        """Content vector c [n, D] from the pooled tokens v [n, D] and the title [n, d_t]; has_frames, has_text [n] bool:
        absent parts are learned vectors."""
        video = torch.where(has_frames[:, None], pooled, self.no_video)
        title = self.no_text.expand_as(video)
        if self.text is not None:
            title = torch.where(
                has_text[:, None], project_unit(text.to(video.dtype), self.text.weight) + self.text.bias, title
            )
        first = self.content[0]
        assert isinstance(first, nn.Linear)
        described: Tensor = self.content[1:](_linear(first, video, title))
        return described

    def forward(self, ids: Tensor, described: Tensor, available: Tensor, log_popularity: Tensor) -> Tensor:
        """ids, described [n, D], available [n, 3], log_popularity [n] -> z [n, D]."""
        facts = torch.cat([available.to(ids.dtype), log_popularity[:, None]], -1)
        return ids + torch.sigmoid(_linear(self.gate, ids, described, facts)) * described


def _linear(layer: nn.Linear, *parts: Tensor) -> Tensor:
    """layer([parts]), parts [n, d_i], without putting them together: a constant part, as the catalogue's pooled tokens are in
    training, then costs no gradient."""
    weights = torch.split(layer.weight, [part.shape[1] for part in parts], 1)
    out = F.linear(parts[0], weights[0], layer.bias)
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        out = torch.addmm(out, part, weight.T)
    return out
