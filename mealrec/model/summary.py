"""Mean frame features of videos: what a model without diffusion knows of their pictures and sound."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mealrec.model.content import AUDIO, VIDEO, Content
from mealrec.model.layers import rms_norm


class Summary(NamedTuple):
    """visual [n, d_v], audio [n, d_a]: means over valid frames of the unit-RMS features, zeros where there are none."""

    visual: Tensor
    audio: Tensor


def summarise(content: Content) -> Summary:
    """Cost: one pass over n x F x (d_v + d_a) features."""
    count = content.frame_mask.sum(1, keepdim=True).clamp(min=1)
    share = (content.frame_mask / count)[..., None]
    visual = (rms_norm(content.visual) * share).sum(1) * content.available[:, VIDEO : VIDEO + 1]
    audio = (rms_norm(content.audio) * share).sum(1) * content.available[:, AUDIO : AUDIO + 1]
    return Summary(visual, audio)
