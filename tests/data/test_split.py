"""What trains and what is held out, by hand."""

from __future__ import annotations

import numpy as np

from mealrec.data.split import leave_one_out, temporal, training_rows

OFFSETS = np.array([0, 4, 6, 7, 7, 12])  # viewers of 4, 2, 1, 0 and 5 items


def test_leave_one_out_holds_the_last_two_items_and_needs_a_history() -> None:
    cuts = leave_one_out(OFFSETS)
    assert cuts.train_end.tolist() == [2, 4, 6, 7, 10]
    assert cuts.valid_at.tolist() == [2, -1, -1, -1, 10]
    assert cuts.test_at.tolist() == [3, 5, -1, -1, 11]
    assert training_rows(OFFSETS, cuts).nonzero()[0].tolist() == [0, 1, 7, 8, 9]


def test_a_temporal_target_is_the_first_item_after_the_time_and_needs_a_history() -> None:
    before_valid = np.array([2, 0, 1, 0, 5])
    before_test = np.array([3, 1, 1, 0, 5])
    cuts = temporal(OFFSETS, before_valid, before_test)
    assert cuts.train_end.tolist() == [2, 4, 7, 7, 12]
    # viewer 1 starts in the validation part, viewer 2 and 4 have nothing after training
    assert cuts.valid_at.tolist() == [2, -1, -1, -1, -1]
    assert cuts.test_at.tolist() == [3, 5, -1, -1, -1]
    assert training_rows(OFFSETS, cuts).nonzero()[0].tolist() == [0, 1, 6, 7, 8, 9, 10, 11]
