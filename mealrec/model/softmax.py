"""Next-item cross-entropy over catalogues of any size, without ever holding positions x catalogue in memory.

Full softmax up to about 100,000 videos: the scores are made, used and made again in the backward pass `CHUNK` rows at a
time. Above that: a sample of negatives shared by the step, drawn by popularity and corrected for it (logQ; Bengio and Senecal
2008, Yi et al. 2019). Both return sums, so that workers' losses add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_SCORES = 1 << 24  # scores held at a time: 64 MiB of float32
FULL_SOFTMAX_UP_TO = 100_000


@dataclass(frozen=True)
class Negatives:
    """How candidates are drawn: popularity [N + 1] training counts (row 0 is padding and never drawn), count a step.

    Popularity is raised to `power` and one is added, so that videos never watched are drawn as well."""

    probability: Tensor
    count: int

    @classmethod
    def by_popularity(cls, counts: Tensor, count: int, *, power: float = 0.75) -> Negatives:
        weight = (counts.double() + 1).pow(power)
        weight[0] = 0
        return cls((weight / weight.sum()).float(), count)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Items [count], with replacement."""
        return torch.multinomial(self.probability, self.count, replacement=True, generator=generator)


def next_item_loss(
    states: Tensor,
    table: Tensor,
    target: Tensor,
    *,
    negatives: Negatives | None = None,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Summed cross-entropy of targets [m] for states [m, D] against the catalogue's vectors table [N + 1, D] (row 0 padding,
    never a candidate). negatives None: the whole catalogue."""
    if negatives is None:
        return full_loss(states, table, target, temperature)
    if generator is None:
        raise ValueError("sampled candidates need a generator")
    expected = (negatives.probability * negatives.count).clamp(min=1e-30).log()
    return sampled_loss(states, table, target, negatives.draw(generator), expected, temperature)


def full_loss(states: Tensor, table: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax over every row of table [N + 1, D] but row 0. Cost: m x N x D; memory: CHUNK_SCORES, or the scores of one
    chunk's rows where the catalogue alone is larger. 0 for no rows."""
    if len(target) == 0:
        return states.sum() * 0 + table.sum() * 0
    candidates = table[1:]
    rows = max(CHUNK_SCORES // max(len(candidates), 1), 1)
    if len(target) <= rows:
        return _cross_entropy(states, candidates, target, temperature)
    parts = [
        checkpoint(
            _cross_entropy, states[at : at + rows], candidates, target[at : at + rows], temperature, use_reentrant=False
        )
        for at in range(0, len(target), rows)
    ]
    return torch.stack(parts).sum()


def sampled_loss(
    states: Tensor, table: Tensor, target: Tensor, drawn: Tensor, expected: Tensor, temperature: float = 1.0
) -> Tensor:
    """Each row's own target against the step's sample: target [m] and drawn [n] are rows of table [C, D], expected [C] the log
    of how often a row is expected in the sample. A drawn candidate that is a row's target does not count twice.

    Cost and memory: m x n. 0 for no rows."""
    if len(target) == 0:
        return states.sum() * 0 + table.sum() * 0
    scores = states @ table[drawn].T / temperature - expected[drawn]
    scores = scores.masked_fill(drawn[None, :] == target[:, None], -torch.inf)
    own = (states * table[target]).sum(-1, keepdim=True) / temperature - expected[target][:, None]
    return F.cross_entropy(torch.cat([own, scores], 1), torch.zeros_like(target), reduction="sum")


def _cross_entropy(states: Tensor, candidates: Tensor, target: Tensor, temperature: float) -> Tensor:
    return F.cross_entropy(states @ candidates.T / temperature, target - 1, reduction="sum")
