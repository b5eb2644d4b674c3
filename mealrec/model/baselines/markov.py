"""First-order Markov chain: what was watched next after the last video, popularity where nothing is known."""

from __future__ import annotations

import torch
from torch import Tensor


class Markov:
    """Scores j by count(i -> j) with popularity as the tie-break: its share of all interactions is below one transition.

    sequence [I] item indices of all viewers one after another, first [I] bool marks a viewer's first item, counts [N + 1].
    Memory: the distinct transitions (sparse), never N x N.
    """

    def __init__(self, sequence: Tensor, first: Tensor, counts: Tensor) -> None:
        n = len(counts)
        follows = ~first[1:]
        source, target = sequence[:-1][follows], sequence[1:][follows]
        pairs, count = torch.unique(source * n + target, return_counts=True)
        self.source, self.target, self.count = pairs // n, pairs % n, count.to(torch.float64)
        self.start = torch.searchsorted(self.source, torch.arange(n + 1))
        self.prior = counts.to(torch.float64) / counts.sum().clamp(min=1)

    def scores(self, history: Tensor) -> Tensor:
        """history [B, L], left-padded (its last item counts; 0: popularity alone) -> [B, N + 1]."""
        out = self.prior.repeat(len(history), 1)
        for row, item in enumerate(history[:, -1].tolist()):
            begin, end = int(self.start[item]), int(self.start[item + 1])
            out[row, self.target[begin:end]] += self.count[begin:end]
        return out
