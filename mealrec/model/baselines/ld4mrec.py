"""Light diffusion over the interaction vector, guided by behaviour and content (Zhu et al. 2023, arXiv 2309.15363: LD4MRec).

Inference is free of the forward process: the observed vector goes in as it is, since what viewers did is noisy already. Two
signals guide the denoiser: what the viewer watched (collaborative) and what it was about (preference over content).

B viewers, L history, N videos, D width, d_c content width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.baselines.diffrec import STEP_WIDTH, LinearVariance, seen_vector
from mealrec.model.baselines.protocol import Facts, Summed, Trainable
from mealrec.model.layers import sinusoid


def mean_of(table: Tensor, items: Tensor, counted: Tensor) -> Tensor:
    """Mean row of table [N + 1, D] over items [B, L] where `counted` [B, L]; zeros where nothing counts -> [B, D]."""
    weight = counted.float() / counted.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("bl,bld->bd", weight, table[items])


class GuidedMLP(nn.Module):
    """The clean vector from a noised one, its step and a guiding signal c; y [B, N + 1], t [B], c [B, D] -> [B, N + 1].

    The signal scales and shifts the hidden layer: it decides which of the vector's patterns are believed."""

    def __init__(self, size: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.enter = nn.Linear(size, width)
        self.step = nn.Linear(STEP_WIDTH, width)
        self.guide = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * width))
        self.leave = nn.Linear(width, size)

    def forward(self, y: Tensor, t: Tensor, c: Tensor) -> Tensor:
        hidden = self.enter(self.drop(F.normalize(y, dim=-1))) + self.step(sinusoid(t, STEP_WIDTH))
        scale, shift = self.guide(c).chunk(2, -1)
        out: Tensor = self.leave(((1 + scale) * hidden + shift).tanh())
        return out


class LD4MRec(Trainable):
    """Light guided diffusion. Cost and parameters: B x N x width a step, of which there are few; memory B x N.

    Differs from the paper: both guiding signals are means over the history (learned vectors of its videos; their content
    vectors), so that a viewer needs no ID; they leave out the newest video in training, as at inference; and the loss is
    the plain squared error of the whole set, without soft labels."""

    content: Tensor
    has_content: Tensor

    def __init__(
        self,
        facts: Facts,
        *,
        width: int = 256,
        steps: int = 2,
        noise_scale: float = 0.1,
        noise_min: float = 0.001,
        noise_max: float = 0.02,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(facts)
        self.register_buffer("content", F.normalize(facts.content, dim=-1), persistent=False)
        self.register_buffer("has_content", facts.has_content, persistent=False)
        self.ids = nn.Embedding(facts.items + 1, width, padding_idx=0)
        nn.init.normal_(self.ids.weight[1:], std=0.02)
        self.modality = nn.Linear(facts.content.shape[1], width) if facts.content.shape[1] else None
        self.noise = LinearVariance(steps, scale=noise_scale, least=noise_min, most=noise_max)
        self.denoiser = GuidedMLP(facts.items + 1, width, dropout=dropout)

    def guidance(self, history: Tensor) -> Tensor:
        """c [B, D] of a history [B, L]: collaborative signal plus preference over content, where there is content."""
        signal = mean_of(self.ids.weight, history, history > 0)
        if self.modality is None:
            return signal
        counted = (history > 0) & self.has_content[history]
        preference: Tensor = self.modality(mean_of(self.content, history, counted))
        return signal + preference

    def loss(self, history: Tensor, target: Tensor, rng: torch.Generator) -> Summed:
        """Squared error of the denoised vector of history and newest item, summed over videos; count: viewers with any."""
        any_item = (history > 0).any(1) | (target[:, -1] > 0)
        history, target = history[any_item], target[any_item]
        x = seen_vector(torch.cat([history, target[:, -1:]], 1), self.items)
        t = self.noise.draw_steps(len(x), rng)
        predicted = self.denoiser(self.noise.noised(x, t, rng), t, self.guidance(history))
        return Summed((predicted - x).square().sum(), len(x))

    def scores(self, history: Tensor) -> Tensor:
        """The vector [B, N + 1] denoised from the observed one, which no noise is added to."""
        c = self.guidance(history)
        return self.noise.reverse(
            lambda y, t: self.denoiser(y, t, c), seen_vector(history, self.items), self.noise.steps
        )
