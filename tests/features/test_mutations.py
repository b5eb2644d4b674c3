"""Five hundred broken videos, each with an end of its own; `make fuzz` does a hundred times as many."""

from __future__ import annotations

from pathlib import Path

import pytest

from mealrec.schema import VIDEO_REASONS
from tests.features.mutations import DECODED, mutated, rendered, run

pytestmark = pytest.mark.media

FILES = 500


def test_every_mutated_video_is_decoded_or_has_a_reason_and_valid_ones_decode_as_before(tmp_path: Path) -> None:
    (tmp_path / "valid").mkdir()
    (tmp_path / "mutated").mkdir()
    ends = run(rendered(tmp_path / "valid"), range(FILES), tmp_path / "mutated")
    assert sum(ends.values()) == FILES
    assert set(ends) <= {DECODED, *VIDEO_REASONS}
    assert len(ends) >= 5 and max(ends.values()) < 0.9 * FILES, f"the mutations reach little: {ends}"
    assert list((tmp_path / "mutated").iterdir()) == []


def test_the_same_seed_gives_the_same_file() -> None:
    valid = [bytes(range(256)) * 4]
    assert mutated(valid, 7) == mutated(valid, 7) != mutated(valid, 8)
