"""Popularity that fades: what a viewer without a history is recommended by (model.md 4, popularity x recency)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

HALF_LIFE_DAYS = 7.0  # a choice and not a measurement: the real sets that this was made with have no times
DAY_MS = 86_400_000


def recent_popularity(
    item: npt.NDArray[np.int64], timestamp_ms: npt.NDArray[np.int64], items: int
) -> npt.NDArray[np.float32]:
    """Interactions of each video [items + 1], one of them worth 2^(-age / half-life), its age from the newest of all; item,
    timestamp_ms [n]. Cost: n."""
    newest = timestamp_ms.max(initial=0)
    worth = np.exp2((timestamp_ms - newest) / (HALF_LIFE_DAYS * DAY_MS))
    return np.bincount(item, weights=worth, minlength=items + 1).astype(np.float32)
