"""How far a stage's own lines say it is."""

from __future__ import annotations

import pytest

from flows.progress import percent


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("12/24 videos, 1 rejected, 3.0/s, 4 s left", 50.0),
        ("warmup epoch 3/12: loss_total 1.0000 (0.2 s)", 25.0),
        ("joint epoch 3/3: loss_total 1.0000 (0.2 s)", 100.0),
        ("joint epoch 4: step 12/40", None),  # within an epoch
        ("24 videos in the catalogue: 0 unchanged, 24 to do", None),
        ("0/0 videos", None),
    ],
)
def test_a_line_with_a_fraction_at_its_start_moves_the_bar(line: str, done: float | None) -> None:
    assert percent(line) == done
