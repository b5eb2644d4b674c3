"""Popularity: every viewer gets the most watched videos."""

from __future__ import annotations

import torch
from torch import Tensor


class Popularity:
    """Scores every video by its training interactions. counts [N + 1], row 0 padding."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts.to(torch.float64)

    def scores(self, last_item: Tensor) -> Tensor:
        """last_item [B] -> [B, N + 1], the same row for everyone."""
        return self.counts.expand(len(last_item), -1)
