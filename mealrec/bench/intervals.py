"""Is one system better than another, beyond what viewers and seeds do by chance?

Two levels: viewers are resampled, the same ones for all systems (a paired bootstrap), and the seeds of each system are
resampled too, because seeds alone move NDCG@10 by as much as a module does. Percentile intervals (Efron 1979).

Means over resampled viewers are linear in the values, so they are made once for many systems (`sampled`), as one product of
how often each viewer was drawn; what is compared afterwards has SAMPLES numbers a seed and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

SAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 50  # resamples at a time: memory is CHUNK x viewers
OWN, OTHER = 1, 2  # streams of the seeds' draws; 0 is the viewers'
Values = npt.NDArray[np.float64]


class Sampled(NamedTuple):
    """A system's mean over all viewers, a seed each [S], and over each resample of viewers [samples, S]."""

    means: Values
    resampled: Values

    @property
    def mean(self) -> float:
        return float(self.means.mean())

    def over_seeds(self, seed: int, stream: int) -> Values:
        """One mean a resample [samples], its seeds drawn too. One stream for two quantities of one system keeps them paired."""
        samples, seeds = self.resampled.shape
        rng = np.random.default_rng([seed, stream])
        drawn: Values = (self.resampled * _seed_weights(rng, samples, seeds)).sum(1)
        return drawn


class Difference(NamedTuple):
    """Mean of a - b, its interval, the mean relative to b's, and how many seeds each had."""

    mean: float
    low: float
    high: float
    relative: float
    seeds: tuple[int, int]


class Span(NamedTuple):
    """A mean and its interval."""

    mean: float
    low: float
    high: float


def sampled(values: Sequence[Values], *, samples: int = SAMPLES, seed: int = 0) -> Sampled:
    """Means of arrays [V] over the same resampled viewers; an array is one seed of a system, or of any of many systems.

    Deterministic in `seed`. Raises ValueError for no arrays or for different viewers. Cost: samples x V x arrays, as one
    product a CHUNK of resamples; memory: CHUNK x V."""
    if not values or len({len(one) for one in values}) != 1:
        raise ValueError("each system needs at least one seed, and values of the same viewers")
    table = np.stack(values, 1)
    viewers, rng = len(table), np.random.default_rng([seed, 0])
    means: list[Values] = []
    for at in range(0, samples, CHUNK):
        n = min(CHUNK, samples - at)
        drawn = rng.integers(0, viewers, size=(n, viewers))
        times = np.stack([np.bincount(row, minlength=viewers) for row in drawn])
        means.append(times.astype(np.float64) @ table / viewers)
    return Sampled(table.mean(0), np.concatenate(means))


def difference(a: Sampled, b: Sampled, *, confidence: float = CONFIDENCE, seed: int = 0) -> Difference:
    """Interval of mean(a) - mean(b), both of the same resamples of viewers."""
    low, high = _interval(a.over_seeds(seed, OWN) - b.over_seeds(seed, OTHER), confidence)
    mean, base = a.mean - b.mean, b.mean
    return Difference(mean, low, high, mean / base if base else 0.0, (len(a.means), len(b.means)))


def own_span(a: Sampled, *, seed: int = 0) -> Span:
    """A system's own mean."""
    return Span(a.mean, *_interval(a.over_seeds(seed, OWN), CONFIDENCE))


def retention(clean: Sampled, disturbed: Sampled, *, seed: int = 0) -> Span:
    """Share of the clean metric that is left under a condition: mean(disturbed) / mean(clean), both by the same seeds."""
    return Span(_share(clean.mean, disturbed.mean), *_interval(_kept(clean, disturbed, seed, OWN), CONFIDENCE))


def retention_difference(a: tuple[Sampled, Sampled], b: tuple[Sampled, Sampled], *, seed: int = 0) -> Span:
    """Retention of a (clean, disturbed) minus that of b on the same resampled viewers; seeds of each by themselves."""
    mean = _share(a[0].mean, a[1].mean) - _share(b[0].mean, b[1].mean)
    return Span(mean, *_interval(_kept(*a, seed, OWN) - _kept(*b, seed, OTHER), CONFIDENCE))


def _kept(clean: Sampled, disturbed: Sampled, seed: int, stream: int) -> Values:
    after: Values = disturbed.over_seeds(seed, stream) / np.maximum(clean.over_seeds(seed, stream), 1e-12)
    return after


def _share(clean: float, disturbed: float) -> float:
    return disturbed / max(clean, 1e-12)


def _interval(drawn: Values, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _seed_weights(rng: np.random.Generator, n: int, seeds: int) -> Values:
    """How often each seed is in each of n resamples, as shares [n, seeds].

    Resampling S seeds varies their mean by (S - 1) / S of what it should; deviations from 1 / S are widened by
    sqrt(S / (S - 1)), without which an interval from 2 to 5 seeds is too narrow (simulated: .80 to .87 instead of .95)."""
    if seeds == 1:
        return np.ones((n, 1))
    share = rng.multinomial(seeds, [1 / seeds] * seeds, size=n) / seeds
    widened: Values = 1 / seeds + (share - 1 / seeds) * math.sqrt(seeds / (seeds - 1))
    return widened
