"""Beyond accuracy: how recommendations spread over the catalogue. Imports torch and numpy alone.

All from how often each video was among viewers' first K and how often it was watched in training.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def spread(shown: Ints, counts: Ints) -> dict[str, float]:
    """coverage: share of the catalogue shown to anybody; gini of exposure (0: all alike, 1: one video takes all); novelty:
    mean -log2 of the shown videos' share of training interactions (one more added to each; Vargas and Castells 2011);
    popularity_lift: mean training count of what is shown over that of what is watched (1: as popular as the histories).

    shown, counts [N + 1], row 0 padding. Raises ValueError when nothing was shown."""
    exposure, watched = shown[1:].astype(np.float64), counts[1:].astype(np.float64)
    total, interactions = exposure.sum(), watched.sum()
    if total == 0:
        raise ValueError("nothing was shown to anybody")
    chance = (watched + 1) / (interactions + len(watched))
    usual = float((watched * watched).sum() / max(interactions, 1))
    return {
        "coverage": float((exposure > 0).mean()),
        "gini": gini(exposure),
        "novelty": float((exposure * -np.log2(chance)).sum() / total),
        "popularity_lift": float((exposure * watched).sum() / total) / max(usual, 1e-12),
    }


def gini(values: npt.NDArray[np.float64]) -> float:
    """Gini coefficient of values >= 0, by their order: 0 when all are alike, (n - 1) / n when one has everything."""
    ordered = np.sort(values)
    n = len(ordered)
    place = np.arange(1, n + 1)
    return float(((2 * place - n - 1) * ordered).sum() / max(n * ordered.sum(), 1e-12))
