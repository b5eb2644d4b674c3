"""What a baseline is: scores for a history, and for those trained by gradient a summed loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mealrec.model.softmax import Negatives, next_item_loss


@dataclass(frozen=True)
class Facts:
    """What is known of the catalogue before training.

    counts [N + 1]: training interactions, row 0 padding; content [N + 1, d_c] float32: one fixed vector a video (d_c may be
    0); has_content [N + 1] bool; negatives: None for the softmax over the whole catalogue."""

    counts: Tensor
    content: Tensor
    has_content: Tensor
    negatives: Negatives | None = None

    @property
    def items(self) -> int:
        """N, padding not counted."""
        return len(self.counts) - 1


class Summed(NamedTuple):
    """A loss summed over `targets` training targets; divide to get the mean."""

    loss: Tensor
    targets: int


class Recommender(Protocol):
    """history [B, L] item indices, oldest first, left-padded with 0 -> scores [B, N + 1] (column 0 has no meaning)."""

    def scores(self, history: Tensor) -> Tensor: ...


class Trainable(nn.Module, ABC):
    """A baseline trained by gradient. `loss` gets windows: history [B, L] and the next item at each position, target [B, L]
    (0 where none); `rng` is the only source of randomness besides dropout. `scores` draws none (fixed seeds inside)."""

    def __init__(self, facts: Facts) -> None:
        super().__init__()
        self.items = facts.items
        self.negatives = facts.negatives

    @abstractmethod
    def loss(self, history: Tensor, target: Tensor, rng: torch.Generator) -> Summed: ...

    @abstractmethod
    def scores(self, history: Tensor) -> Tensor: ...

    def next_item(self, states: Tensor, table: Tensor, target: Tensor, rng: torch.Generator) -> Summed:
        """Cross-entropy of states [m, D] for targets [m] against table [N + 1, D]."""
        loss = next_item_loss(states, table, target, negatives=self.negatives, generator=rng)
        return Summed(loss, len(target))
