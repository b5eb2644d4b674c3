"""Spread of recommendations, and the parts of the viewers, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mealrec.data.packed import Packed
from mealrec.evaluation.beyond import gini, spread
from mealrec.evaluation.slices import slices


def test_spread_of_a_small_catalogue() -> None:
    shown, counts = np.array([0, 6, 2, 0, 0]), np.array([0, 3, 1, 0, 0])
    found = spread(shown, counts)
    assert found["coverage"] == 0.5
    assert found["gini"] == pytest.approx((-3 * 0 - 1 * 0 + 1 * 2 + 3 * 6) / (4 * 8))
    share = {1: 4 / 8, 2: 2 / 8}
    assert found["novelty"] == pytest.approx((6 * -math.log2(share[1]) + 2 * -math.log2(share[2])) / 8)
    assert found["popularity_lift"] == pytest.approx(((6 * 3 + 2 * 1) / 8) / ((9 + 1) / 4))
    with pytest.raises(ValueError, match="nothing was shown"):
        spread(np.zeros(5, dtype=np.int64), counts)


def test_gini_at_its_ends() -> None:
    assert gini(np.ones(10)) == pytest.approx(0.0)
    assert gini(np.array([0.0] * 9 + [5.0])) == pytest.approx(0.9)


def test_slices_cover_everyone_once_by_target_and_once_by_history(packed: Packed) -> None:
    viewer = np.nonzero(packed.target_at("test") >= 0)[0]
    target = np.asarray(packed.sequence[packed.target_at("test")[viewer]])
    parts = slices(packed, viewer, target)
    by_target = [rows for name, rows in parts.items() if "target" in name]
    by_history = [rows for name, rows in parts.items() if "history" in name]
    assert (sum(r.astype(int) for r in by_target) == 1).all() and (sum(r.astype(int) for r in by_history) == 1).all()
    counts = packed.content.train_count().numpy()
    if "target never seen in training" in parts:
        assert (counts[target[parts["target never seen in training"]]] == 0).all()
    assert counts[target[parts["head target"]]].min() >= counts[target[parts["tail target"]]].max()
    short = parts["history up to 5"]
    assert all(len(packed.history(int(v), "test")) <= 5 for v in viewer[short])
