"""Counting columns that stream by: bins with fixed edges, classes, rows of a viewer. Memory: the counters, whatever the rows.

Fixed edges, not quantiles: counts of two nights, or of two files, can then be added and compared without the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

RATIO_EDGES = (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1.5, 2.0, np.inf)  # of a video's length
SECOND_EDGES = (0, 1, 2, 3, 5, 8, 13, 20, 30, 45, 60, 120, 300, np.inf)
LENGTH_EDGES = (1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 31, 51, 101, 201, np.inf)  # of sessions, histories
OTHER = "(other)"
MOST_CLASSES, CLASSES_KEPT = 10_000, 20
MOST_VIEWERS = 100_000
Counts = npt.NDArray[np.int64]


class Bins:
    """Rows in each [edge, next edge); what lies outside is in the first or the last."""

    def __init__(self, edges: Sequence[float]) -> None:
        self.inner = np.asarray(edges)[1:-1]
        self.counts: Counts = np.zeros(len(edges) - 1, dtype=np.int64)
        self.labels = [f"{a:g} to {b:g}" if b < np.inf else f"from {a:g}" for a, b in pairwise(edges)]

    def add(self, values: npt.NDArray[Any], rows: Counts | None = None) -> None:
        """rows: how many times each value stands there (None: once)."""
        self.counts += np.bincount(np.digitize(values, self.inner), rows, len(self.counts)).astype(np.int64)


class Classes:
    """Rows of each value; values that are too many to keep are one class, the rarest first."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()

    def add(self, values: pa.Array) -> None:
        for entry in pc.value_counts(values.drop_null()).to_pylist():
            self.rows[entry["values"]] += entry["counts"]
        if len(self.rows) > MOST_CLASSES:  # a log with a value of its own in every row must not fill the memory
            self._fold(MOST_CLASSES // 10)

    def counts(self) -> dict[str, int]:
        self._fold(CLASSES_KEPT)
        return dict(sorted(self.rows.items()))

    def _fold(self, keep: int) -> None:
        named = Counter({name: n for name, n in self.rows.items() if name != OTHER})
        kept = dict(named.most_common(keep))
        other = self.rows.total() - sum(kept.values())
        self.rows = Counter(kept | ({OTHER: other} if other else {}))


class Viewers:
    """Rows of each viewer, of at most MOST_VIEWERS: those of the smallest hashes, so that each is equally likely to be among
    them. What is counted of one is exact: a viewer that leaves the smallest never comes back."""

    def __init__(self, most: int = MOST_VIEWERS) -> None:
        self.most = most
        self.hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self.rows: Counts = np.empty(0, np.int64)

    def add(self, users: pa.Array) -> None:
        found = pc.value_counts(users)
        hashes = hash_array(np.asarray(found.field("values").to_pylist(), dtype=object), categorize=False)
        both = np.concatenate([self.hashes, hashes])
        rows = np.concatenate([self.rows, np.asarray(found.field("counts"))])
        unique, at = np.unique(both, return_inverse=True)
        self.hashes = unique[: self.most]
        self.rows = np.bincount(at, rows, len(unique)).astype(np.int64)[: self.most]

    def count(self) -> int:
        """Distinct viewers: exact up to `most`, beyond within about 1 / sqrt(most) of it, from how close together the smallest
        hashes lie (k minimum values)."""
        if len(self.hashes) < self.most:
            return len(self.hashes)
        return round((self.most - 1) / (float(self.hashes[-1]) / 2.0**64))


class Sessions:
    """Lengths of whole sessions from the rows' places in theirs: those longer than k have exactly one row at place k."""

    def __init__(self) -> None:
        self.at: Counts = np.zeros(1001, dtype=np.int64)

    def add(self, positions: npt.NDArray[Any]) -> None:
        self.at += np.bincount(positions[positions < len(self.at)], minlength=len(self.at))

    def lengths(self) -> Bins:
        bins = Bins(LENGTH_EDGES)
        ended = self.at - np.append(self.at[1:], 0)  # the last place also stands for all longer ones
        bins.add(np.arange(1, len(ended) + 1), ended)
        return bins
