"""Counters of columns that stream by, against counting all at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from mealrec.data import histograms
from mealrec.data.histograms import OTHER, Bins, Classes, Sessions, Viewers


def test_a_value_on_an_edge_belongs_to_the_bin_above_it() -> None:
    bins = Bins((0, 1, 2, np.inf))
    bins.add(np.array([-1.0, 0.999, 1.0, 2.0, 99.0]))
    bins.add(np.array([0.5]), np.array([10]))
    assert bins.counts.tolist() == [12, 1, 2] and bins.labels == ["0 to 1", "1 to 2", "from 2"]


def test_session_lengths_come_from_places_alone() -> None:
    lengths = [1, 1, 2, 7, 60, 1500]
    places = np.concatenate([np.arange(n) for n in lengths])
    np.random.default_rng(0).shuffle(places)
    sessions, wanted = Sessions(), Bins(histograms.LENGTH_EDGES)
    for part in np.array_split(places, 5):
        sessions.add(part)
    wanted.add(np.array(lengths))
    assert sessions.lengths().counts.tolist() == wanted.counts.tolist()


def test_rows_of_viewers_are_exact_for_those_that_are_kept_and_their_number_is_estimated() -> None:
    rng = np.random.default_rng(1)
    users = [f"u{n}" for n in rng.zipf(1.3, 20_000) % 5000]
    true = Counter(users)
    few, all_of_them = Viewers(most=400), Viewers()
    for part in np.array_split(np.array(users), 13):
        for viewers in (few, all_of_them):
            viewers.add(pa.array(part.tolist()))
    assert all_of_them.count() == len(true) and sorted(all_of_them.rows) == sorted(true.values())
    assert few.count() == pytest.approx(len(true), rel=0.15) and len(few.rows) == 400
    exact = dict(zip(all_of_them.hashes.tolist(), all_of_them.rows.tolist(), strict=True))
    assert all(exact[h] == n for h, n in zip(few.hashes.tolist(), few.rows.tolist(), strict=True))


def test_a_log_with_a_value_of_its_own_in_every_row_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "MOST_CLASSES", 100)
    classes = Classes()
    for part in range(20):
        classes.add(pa.array([f"{part}-{n}" for n in range(50)] + ["often"] * 9 + [None]))
        assert len(classes.rows) <= 150
    found = classes.counts()
    assert found["often"] == 180 and sum(found.values()) == 20 * 59 and len(found) <= 21 and OTHER in found
