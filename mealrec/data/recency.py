"""Popularity that fades: what a viewer without a history is recommended by (model.md 4, popularity x recency)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HALF_LIFE_DAYS = 7.0  # a choice and not a measurement: the real sets that this was made with have no times
AHEAD = 0.001  # share of the interactions whose clocks may be ahead
DAY_MS = 86_400_000


def recent_popularity(
    item: npt.NDArray[np.int64], timestamp_ms: npt.NDArray[np.int64], items: int
) -> npt.NDArray[np.float32]:
    """Interactions of each video [items + 1], one of them worth 2^(-age / half-life); item, timestamp_ms [n]. Ages are from the
    newest but a thousandth: a clock that is years ahead does not make all others old. Cost: n."""
    if not len(item):
        return np.zeros(items + 1, dtype=np.float32)
    newest = np.quantile(timestamp_ms, 1 - AHEAD, method="higher")
    worth = np.exp2(np.minimum(timestamp_ms - newest, 0) / (HALF_LIFE_DAYS * DAY_MS))
    return np.bincount(item, weights=worth, minlength=items + 1).astype(np.float32)
