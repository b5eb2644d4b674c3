"""An encoder that fails on a video costs that video; one whose device fails stops the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mealrec.config import FeaturesConfig
from mealrec.features.encoders import EncoderSet
from mealrec.features.rows import EncodersFailed, Outcome, Seconds, Wanted, decoder_for, describe

pytestmark = pytest.mark.media

CONFIG = FeaturesConfig(frames=2, frame_size=32, audio="none", text="none", thumbnail_height=0)


def described(clips: Path, error: Callable[[], Exception]) -> Outcome:
    """Three videos; encoding the second one's pictures raises this error."""

    class Failing:
        name, dim, digest = "failing", 4, "failing"
        encoded = 0

        def encode(self, batch: Any) -> Any:
            self.encoded += 1
            if self.encoded == 2:
                raise error()
            return np.zeros((len(batch), self.dim), np.float16)

    wanted = [Wanted(str(i), "silent.mp4", None, "5:5") for i in range(3)]
    encoders = EncoderSet(Failing(), None, None, "failing")
    decoder = decoder_for(encoders, CONFIG)
    assert decoder is not None
    with decoder:
        return describe(wanted, clips, CONFIG, encoders, decoder, Seconds())


def test_a_video_that_an_encoder_fails_on_costs_itself_alone_and_is_tried_again(clips: Path) -> None:
    found = described(clips, lambda: ValueError("a picture of 0 x 0\nand more"))
    assert [row["video_id"] for row in found.features] == ["0", "2"]
    (row,) = found.quarantine
    assert (row["key"], row["reason"], row["detail"]) == ("1", "not_encoded", "ValueError: a picture of 0 x 0")
    assert "tried_as" not in row["payload"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_device_that_fails_blames_no_video(clips: Path, error: Exception) -> None:
    with pytest.raises(EncodersFailed, match=r"1: .*(allocate|CUDA)"):
        described(clips, lambda: error)
    with pytest.raises(MemoryError):
        described(clips, MemoryError)
