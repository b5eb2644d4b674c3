"""Pictures: eight looks, one a topic, and a few dull backgrounds that every topic shares."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mealrec.sources.simulated.world import TOPICS

HEIGHT, WIDTH = 256, 144
Picture = npt.NDArray[np.uint8]


def topic_picture(topic: str, phase: float, style: npt.NDArray[np.float64]) -> Picture:
    """One frame [256, 144, 3] of a topic's look; phase moves it, style [4] in [0, 1] varies it by video."""
    at = TOPICS.index(topic)
    x, y = _grid()
    scale = 0.8 + 0.4 * style[0]
    inside = _SHAPES[at](x * scale, y * scale, phase + style[1])
    hue = (at / len(TOPICS) + 0.05 * (style[2] - 0.5)) % 1.0
    front = colorsys.hsv_to_rgb(hue, 0.95, 1.0)
    back = colorsys.hsv_to_rgb((hue + 0.45) % 1.0, 0.7, 0.35 + 0.2 * style[3])
    colours = np.where(inside[..., None], front, back)
    return np.asarray(np.round(colours * 255), dtype=np.uint8)


def background_picture(number: int) -> Picture:
    """A grey, blurred still: the same pixels in every video that uses it."""
    x, y = _grid()
    grey = 0.35 + 0.15 * np.sin(2 * np.pi * (y + 0.3 * number)) * np.cos(np.pi * (x - 0.2 * number))
    tint = np.array([1.0, 0.97 + 0.02 * number, 0.95])
    return np.asarray(np.round(np.clip(grey[..., None] * tint, 0, 1) * 255), dtype=np.uint8)


@lru_cache(maxsize=1)
def _grid() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / WIDTH
    return x, y


def _cell(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return value % 1.0 - 0.5


_SHAPES = (
    lambda x, y, p: _cell(x * 4 + p) ** 2 + _cell(y * 4) ** 2 < 0.09,  # discs
    lambda x, y, p: ((x + y) * 7 + 2 * p) % 1.0 < 0.5,  # diagonal stripes
    lambda x, y, p: (np.floor(x * 6 + 2 * p) + np.floor(y * 6)) % 2 == 0,  # chequerboard
    lambda x, y, p: (np.hypot(x - 0.5, y - 0.9) * 9 - 2 * p) % 1.0 < 0.5,  # rings
    lambda x, y, p: np.sin(2 * np.pi * (y * 6 + 0.4 * np.sin(2 * np.pi * (x * 2 + p)))) > 0,  # waves
    lambda x, y, p: (x * 5 + 2 * p) % 1.0 < (y * 5) % 1.0,  # triangles
    lambda x, y, p: (np.abs(_cell(x * 4 + p)) < 0.12) | (np.abs(_cell(y * 4)) < 0.12),  # grid
    lambda x, y, p: (np.arctan2(y - 0.9, x - 0.5) * 6 / np.pi + 2 * p) % 1.0 < 0.5,  # wedges
)
