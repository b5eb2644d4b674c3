"""Topic segments cut from a folder of real clips instead of drawn ones."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from mealrec.sources.landing import SourceError
from mealrec.sources.simulated.draw import HEIGHT, WIDTH
from mealrec.sources.simulated.world import TOPICS, VideoPlan

log = logging.getLogger("mealrec.ingest")

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")
FRAMES = 48  # kept of a clip; a segment that is longer plays them in a loop


def usable_clips(folder: Path) -> list[Path]:
    """Clips that open and decode, sorted by name; others are named in a warning. Raises SourceError when none is left."""
    if not folder.is_dir():
        raise SourceError(f"--clips {folder}: not a folder")
    usable = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            clip_frames(path)
        except (av.FFmpegError, SourceError) as error:
            log.warning("clip %s left out: %s", path.name, error)
        else:
            usable.append(path)
    if not usable:
        raise SourceError(f"--clips {folder}: no usable clip ({', '.join(SUFFIXES)})")
    return usable


def clip_of(plan: VideoPlan, clips: list[Path]) -> Path:
    """Clips are dealt to topics in turn; a video takes one of its topic's."""
    own = clips[TOPICS.index(plan.topic) % len(clips) :: len(TOPICS)]
    return own[plan.number % len(own)]


@lru_cache(maxsize=8)
def clip_frames(path: Path) -> npt.NDArray[np.uint8]:
    """First frames of a clip [n, 256, 144, 3]: centre cut to the upright format, then scaled."""
    frames = []
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise SourceError(f"{path}: no video stream")
        for frame in container.decode(video=0):
            frames.append(_upright(frame.to_ndarray(format="rgb24")))
            if len(frames) == FRAMES:
                break
    if not frames:
        raise SourceError(f"{path}: no frame decodes")
    return np.stack(frames)


def _upright(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width = picture.shape[:2]
    wanted = min(width, height * WIDTH // HEIGHT)
    left = (width - wanted) // 2
    rows = np.linspace(0, height - 1, HEIGHT).astype(int)
    columns = np.linspace(left, left + wanted - 1, WIDTH).astype(int)
    upright: npt.NDArray[np.uint8] = picture[rows][:, columns]
    return upright
