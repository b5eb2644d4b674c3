"""Independent random streams: one for each purpose and thing, so that results do not depend on scheduling or on days added."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is for."""

    VIDEO = 1
    FAULT = 2
    VIEWER = 3
    DAY = 4
    FILE = 5
    PIXELS = 6
    SOUND = 7


def stream(seed: int, purpose: Purpose, *which: int) -> np.random.Generator:
    """The generator of (seed, purpose, which...)."""
    return np.random.default_rng([seed, int(purpose), *which])
