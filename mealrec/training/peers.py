"""The other workers of a training run, as far as the loop needs them: who am I, and sums over all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Peers:
    """rank of world workers; with world 1 nothing is communicated and torch.distributed is not needed."""

    rank: int = 0
    world: int = 1

    def total(self, value: Tensor) -> Tensor:
        """Sum over workers, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over workers in one buffer.

        Losses are divided by the global number of positions, so the sum is the exact gradient of the whole batch however
        its rows are shared out; a parameter a stage does not use counts as zero. This is why DDP's mean is not used.
        """
        if self.world == 1:
            return
        held = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in held])
        dist.all_reduce(flat)
        for parameter, part in zip(held, torch.split(flat, [p.numel() for p in held]), strict=True):
            parameter.grad = part.view_as(parameter)
