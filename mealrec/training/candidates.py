"""Which videos a step scores against: the whole catalogue, or its own videos and a sample by popularity."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mealrec.model.softmax import Negatives, full_loss, sampled_loss


class Candidates(NamedTuple):
    """items [C]: sorted distinct item indices whose vectors the step needs, item 0 (padding) first; drawn [n]: the
    distinct rows of `items` that are the sampled negatives, None where every one of them is a candidate; included [C]: log of
    the probability that each is in the sample."""

    items: Tensor
    drawn: Tensor | None
    included: Tensor | None

    def rows(self, index: Tensor) -> Tensor:
        """Places of item indices in `items`."""
        return torch.searchsorted(self.items, index.contiguous())

    def loss(self, states: Tensor, vectors: Tensor, target: Tensor, temperature: float) -> Tensor:
        """Summed next-item cross-entropy of states [m, D] against vectors [C, D], target [m] item indices."""
        rows = self.rows(target)
        if self.drawn is None or self.included is None:
            return full_loss(states, vectors, rows, temperature)
        return sampled_loss(states, vectors, rows, self.drawn, self.included, temperature)


def everything(items: Tensor) -> Candidates:
    """Every one of `items`, sorted and beginning with the padding, is a candidate."""
    return Candidates(items, None, None)


def sampled(videos: Tensor, negatives: Negatives, generator: torch.Generator) -> Candidates:
    """The step's own videos [U] and those of `negatives.count` draws."""
    drawn = negatives.draw(generator)
    items = torch.unique(torch.cat([torch.zeros_like(videos[:1]), videos, drawn]))
    return Candidates(items, torch.searchsorted(items, drawn), negatives.log_inclusion(items))
