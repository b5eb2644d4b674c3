"""Which interactions of a viewer train, and which one is the target of validation and of test.

leave-one-out: the last item is the test target, the one before it the validation target, whatever their times.
temporal: one validation time and one test time for everybody; training sees nothing from the validation time on, and a
viewer's first item in each later part is the target (no model may look into anybody's future).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Protocol = Literal["leave-one-out", "temporal"]
HELD_OUT = 2  # leave-one-out: interactions of each viewer that never train


class Cuts(NamedTuple):
    """Positions in the packed sequence, one a viewer: training is start..train_end - 1; valid_at and test_at are the targets'
    positions, -1 where the viewer has none. What lies before a target is its history."""

    train_end: Ints
    valid_at: Ints
    test_at: Ints


def leave_one_out(offsets: Ints) -> Cuts:
    """A viewer of two items has a test target only (the first item is its history), of one item none."""
    start, end = np.asarray(offsets[:-1]), np.asarray(offsets[1:])
    length = end - start
    return Cuts(
        np.maximum(end - HELD_OUT, start),
        np.where(length >= HELD_OUT + 1, end - HELD_OUT, -1),
        np.where(length >= HELD_OUT, end - 1, -1),
    )


def temporal(offsets: Ints, valid_start: Ints, test_start: Ints) -> Cuts:
    """valid_start, test_start: how many of each viewer's items lie before the global validation and test time.

    A target needs a history, so a viewer whose first item lies in a part has no target there."""
    start, end = np.asarray(offsets[:-1]), np.asarray(offsets[1:])
    valid, test = start + valid_start, start + test_start
    return Cuts(
        valid,
        np.where((valid_start > 0) & (valid < test), valid, -1),
        np.where((test_start > 0) & (test < end), test, -1),
    )


def training_rows(offsets: Ints, cuts: Cuts) -> npt.NDArray[np.bool_]:
    """True for the interactions that train, bool [I]. Cost: one pass."""
    steps = np.zeros(int(offsets[-1]) + 1, dtype=np.int64)
    np.add.at(steps, np.asarray(offsets[:-1]), 1)
    np.add.at(steps, cuts.train_end, -1)
    rows: npt.NDArray[np.bool_] = np.cumsum(steps)[:-1] > 0
    return rows
