"""Robustness R3: a training set of which a share of the interactions is not the viewer's own."""

from __future__ import annotations

import dataclasses

import numpy as np

from mealrec.data.packed import Packed
from mealrec.data.split import training_rows

ROUNDS = 100  # of draws, until every stranger is new to its viewer


def noisy_training(data: Packed, share: float, seed: int) -> Packed:
    """The same dataset with each training interaction replaced, with probability `share`, by a video drawn by popularity that
    this viewer has nowhere, as R1 does to test histories. Held-out items stay; training counts are those of the new
    interactions, as nobody could know the others. A viewer who has nearly everything keeps what can't be replaced.

    The same for every model; deterministic in (share, seed). Raises ValueError for a share outside (0, 1). Cost: a few sorts
    of the interactions; memory: a few copies of them."""
    if not 0 < share < 1:
        raise ValueError(f"share of the training interactions to replace: {share}, must lie between 0 and 1")
    rng = np.random.default_rng([seed, 3])
    counts = np.asarray(data.content.arrays["train_count"], dtype=np.float64)
    rows = np.flatnonzero(training_rows(data.offsets, data.cuts))
    hit = rows[rng.random(len(rows)) < share]
    viewer = np.repeat(np.arange(data.viewers), np.diff(data.offsets)) * len(counts)
    before = np.asarray(data.sequence)
    sequence, taken = before.copy(), viewer + before
    for _ in range(ROUNDS):
        sequence[hit] = rng.choice(len(counts), size=len(hit), p=counts / counts.sum())
        pairs = viewer[hit] + sequence[hit]
        _, first = np.unique(pairs, return_index=True)
        is_new = np.zeros(len(hit), dtype=bool)
        is_new[first] = ~np.isin(pairs[first], taken)
        taken = np.concatenate([taken, pairs[is_new]])
        hit = hit[~is_new]
        if not len(hit):
            break
    sequence[hit] = before[hit]
    counted = np.bincount(sequence[rows], minlength=len(counts))
    content = dataclasses.replace(data.content, arrays=data.content.arrays | {"train_count": counted})
    return dataclasses.replace(data, sequence=sequence, content=content)
