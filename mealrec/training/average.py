"""Exponential moving average of weights: the teacher of NPD, and what is validated and kept."""

from __future__ import annotations

import torch
from torch import nn


def decay_at(updates: int, decay: float) -> float:
    """Decay of the update number `updates`: grows from 0.1 to `decay`, so that the average forgets where it started."""
    return min(decay, (1 + updates) / (10 + updates))


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay x average + (1 - decay) x model, over the parameters."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
