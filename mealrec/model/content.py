"""Frozen features of some videos, as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

VIDEO, AUDIO, TEXT = range(3)


@dataclass(frozen=True)
class Content:
    """Features of n videos; every mask travels with its tensor.

    visual [n, F, d_v], audio [n, F, d_a] (slots aligned to the frames), text [n, d_t], position [n, F] in [0, 1]
    (frame time / duration), frame_mask [n, F] bool, available [n, 3] bool (video, audio, text), log_popularity [n].
    """

    visual: Tensor
    audio: Tensor
    text: Tensor
    position: Tensor
    frame_mask: Tensor
    available: Tensor
    log_popularity: Tensor

    @property
    def has_frames(self) -> Tensor:
        """[n] bool."""
        return self.frame_mask.any(1)

    @property
    def has_text(self) -> Tensor:
        """[n] bool."""
        return self.available[:, TEXT]

    def without(self, drop: Tensor) -> Content:
        """The same videos with modalities taken away: drop [n, 3] bool. A dropped video loses its frames' pictures only;
        frames stay in the sequence as long as sound is left for them."""
        available = self.available & ~drop
        keeps_frames = available[:, VIDEO] | available[:, AUDIO]
        return Content(
            self.visual,
            self.audio,
            self.text,
            self.position,
            self.frame_mask & keeps_frames[:, None],
            available,
            self.log_popularity,
        )

    def __getitem__(self, rows: Tensor) -> Content:
        return Content(
            self.visual[rows],
            self.audio[rows],
            self.text[rows],
            self.position[rows],
            self.frame_mask[rows],
            self.available[rows],
            self.log_popularity[rows],
        )

    def facts(self, rows: Tensor) -> Content:
        """The same rows without their pictures and sounds [m, F, 0], for those who hold the frames' tokens already."""
        return Content(
            self.visual[:, :, :0][rows],
            self.audio[:, :, :0][rows],
            self.text[rows],
            self.position[rows],
            self.frame_mask[rows],
            self.available[rows],
            self.log_popularity[rows],
        )

    def to(self, device: torch.device | str) -> Content:
        return Content(
            self.visual.to(device),
            self.audio.to(device),
            self.text.to(device),
            self.position.to(device),
            self.frame_mask.to(device),
            self.available.to(device),
            self.log_popularity.to(device),
        )
