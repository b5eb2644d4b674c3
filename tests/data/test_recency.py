"""Popularity that fades."""

from __future__ import annotations

import numpy as np

from mealrec.data.recency import DAY_MS, recent_popularity


def test_clocks_that_are_years_ahead_make_the_others_no_older() -> None:
    item = np.array([1] * 2000 + [2] * 1000)
    when = np.array([0] * 2000 + [7 * DAY_MS] * 1000)
    plain = recent_popularity(item, when, 3)
    assert plain.tolist() == [0, 1000, 1000, 0]
    when[-2:] = 70 * 365 * DAY_MS
    assert recent_popularity(item, when, 3).tolist() == plain.tolist()


def test_without_an_interaction_nothing_is_popular() -> None:
    assert recent_popularity(np.zeros(0, np.int64), np.zeros(0, np.int64), 2).tolist() == [0, 0, 0]
