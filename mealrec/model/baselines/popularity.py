"""Popularity: every viewer gets the most watched videos."""

from __future__ import annotations

import torch
from torch import Tensor


class Popularity:
    """Scores every video by its training interactions. counts [N + 1], row 0 padding."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts.to(torch.float64)

    def scores(self, history: Tensor) -> Tensor:
        """history [B, L] -> [B, N + 1], the same row for everyone."""
        return self.counts.repeat(len(history), 1)
