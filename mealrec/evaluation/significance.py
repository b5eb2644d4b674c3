"""Paired bootstrap over viewers: is a difference in a metric larger than chance?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK = 64  # resamples at a time: memory is CHUNK x viewers


class Interval(NamedTuple):
    """Mean difference and its central confidence interval."""

    mean: float
    low: float
    high: float


def paired_bootstrap(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], *, samples: int, confidence: float, seed: int
) -> Interval:
    """Interval of mean(a - b), a and b one value a viewer in the same order (percentile bootstrap, Efron 1979).

    Deterministic in `seed`. Raises ValueError for different lengths or no viewers. Cost: samples x viewers."""
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"paired values of the same viewers are needed, got {len(a)} and {len(b)}")
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means: list[npt.NDArray[np.float64]] = []
    for start in range(0, samples, CHUNK):
        chosen = rng.integers(0, len(difference), size=(min(CHUNK, samples - start), len(difference)))
        means.append(difference[chosen].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(difference.mean()), float(low), float(high))
