"""Do the model's frame weights find the frames that are known to matter?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class SalienceAuc(NamedTuple):
    """Mean over videos of the AUC within a video (uniform weights give 0.5), and how many videos and frames went in."""

    auc: float
    videos: int
    frames: int


def frame_auc(weights: Sequence[npt.NDArray[np.float64]], salient: Sequence[npt.NDArray[np.bool_]]) -> SalienceAuc:
    """AUC of each video's frame weights against its truth, averaged; ties count one half (Mann-Whitney).

    Videos whose sampled frames are all salient or all not say nothing and are left out."""
    values, frames = [], 0
    for weight, truth in zip(weights, salient, strict=True):
        inside, outside = weight[truth], weight[~truth]
        if len(inside) and len(outside):
            above = (inside[:, None] > outside[None]).mean() + 0.5 * (inside[:, None] == outside[None]).mean()
            values.append(float(above))
            frames += len(weight)
    return SalienceAuc(float(np.mean(values)) if values else 0.5, len(values), frames)
