"""Sound that goes with the topic during its segments, a faint shared hum elsewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mealrec.sources.simulated.streams import Purpose, stream
from mealrec.sources.simulated.world import TOPICS, VideoPlan

RATE = 44_100


def soundtrack(plan: VideoPlan, seed: int) -> npt.NDArray[np.float32]:
    """Mono samples [duration x 44100] in [-1, 1]."""
    rng = stream(seed, Purpose.SOUND, plan.number)
    t = np.arange(plan.duration_ms * RATE // 1000) / RATE
    hum = 0.02 * rng.standard_normal(len(t)) + 0.03 * np.sin(2 * np.pi * 60 * t)
    at = TOPICS.index(plan.topic)
    base = 160.0 * 2 ** (at * 5 / 12)  # a fourth between topics
    beat = 2.0 + at
    chord = sum(np.sin(2 * np.pi * base * ratio * t) for ratio in (1.0, 1.25, 1.5)) / 3
    music = 0.6 * chord * (0.5 + 0.5 * np.sign(np.sin(2 * np.pi * beat * t)))
    salient = np.zeros(len(t), dtype=bool)
    for start, end in plan.segments_ms:
        salient |= (t * 1000 >= start) & (t * 1000 < end)
    return np.where(salient, music, hum).astype(np.float32)
