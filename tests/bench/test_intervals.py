"""Intervals over viewers and seeds: right on average and paired."""

from __future__ import annotations

import numpy as np
import pytest

from mealrec.bench.intervals import Difference, Sampled, difference, retention, retention_difference, sampled


def compared(a: list[np.ndarray], b: list[np.ndarray], samples: int = 200) -> Difference:  # type: ignore[type-arg]
    both = sampled([*a, *b], samples=samples)
    first, second = (Sampled(both.means[at], both.resampled[:, at]) for at in (slice(0, len(a)), slice(len(a), None)))
    return difference(first, second)


def draws(rng: np.random.Generator, mean: float, seeds: int, wobble: float, base: np.ndarray) -> list[np.ndarray]:  # type: ignore[type-arg]
    return [base + mean + rng.normal(0, wobble) + rng.normal(0, 0.05, len(base)) for _ in range(seeds)]


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(60):
        base = rng.normal(0, 1, 150)
        a, b = draws(rng, 0.02, 5, 0.01, base), draws(rng, 0.0, 5, 0.01, base)
        found = compared(a, b, samples=300)
        covered += found.low <= 0.02 <= found.high
    assert covered >= 48  # 95 % wanted; five seeds make a bootstrap a little too sure


def test_seeds_that_differ_widen_it() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(0, 1, 200)
    calm = compared(draws(rng, 0.0, 5, 0.0, base), draws(rng, 0.0, 5, 0.0, base), samples=300)
    wild = compared(draws(rng, 0.0, 5, 0.2, base), draws(rng, 0.0, 5, 0.2, base), samples=300)
    assert wild.high - wild.low > 3 * (calm.high - calm.low)


def test_viewers_are_paired() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 1, 300)
    a, b = [base + 0.02], [base]
    paired = compared(a, b, samples=200)
    assert paired.low == pytest.approx(0.02) and paired.high == pytest.approx(0.02)
    shuffled = compared(a, [rng.permutation(base)], samples=200)
    assert shuffled.low < 0 < shuffled.high
    with pytest.raises(ValueError, match="same viewers"):
        compared(a, [base[:-1]])


def test_retention_is_the_share_that_is_left() -> None:
    clean = [np.ones(100), np.ones(100)]
    half = [np.tile([1.0, 0.0], 50)] * 2
    before, after = sampled(clean), sampled(half)
    found = retention(before, after)
    assert found.mean == pytest.approx(0.5) and 0.35 < found.low < 0.5 < found.high < 0.65
    more = retention_difference((before, before), (before, after))
    assert more.mean == pytest.approx(0.5) and more.low > 0.3


def test_a_resample_is_of_the_same_viewers_whatever_else_is_sampled() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.normal(0, 1, 70), rng.normal(0, 1, 70)
    alone, together = sampled([one], samples=120), sampled([other, one], samples=120)
    assert np.allclose(alone.resampled[:, 0], together.resampled[:, 1]) and alone.means[0] == pytest.approx(one.mean())
    drawn = np.random.default_rng([0, 0]).integers(0, 70, size=(50, 70))[7]
    assert together.resampled[7, 0] == pytest.approx(other[drawn].mean())


def test_seeds_of_the_two_models_are_resampled_apart() -> None:
    clean = [np.ones(200), np.ones(200)]
    worse = [np.ones(200), np.zeros(200)]
    found = retention_difference((sampled(clean), sampled(worse)), (sampled(clean), sampled(worse)))
    assert found.mean == 0.0 and found.low < -0.4 and found.high > 0.4
