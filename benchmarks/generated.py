"""Generated packed datasets of any size: what training and ranking need, without content that means anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mealrec.data.packed import training_part
from mealrec.data.split import leave_one_out

VISUAL, TEXT = 128, 64
CHUNK = 100_000


@dataclass(frozen=True)
class Size:
    videos: int
    viewers: int
    frames: int = 4
    width: int = 64


def write(folder: Path, size: Size, seed: int = 0) -> None:
    """A packed dataset with Zipf-like popularity and histories of 3 to 12 items. Memory: one chunk of features."""
    rng = np.random.default_rng(seed)
    rows = size.videos + 1
    shapes = {"visual": (rows, size.frames, VISUAL), "audio": (rows, size.frames, 0), "text": (rows, TEXT)}
    for name, shape in shapes.items():
        out = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)
        for at in range(0, rows, CHUNK):
            part = out[at : at + CHUNK]
            part[...] = rng.standard_normal(part.shape, dtype=np.float32)
    there = np.arange(rows) > 0
    frames = np.tile(np.arange(size.frames), (rows, 1))
    length = rng.integers(3, 13, size.viewers)
    offsets = np.concatenate([[0], np.cumsum(length)])
    sequence = _histories(rng, length, size.videos)
    kept, _ = training_part(sequence, offsets, leave_one_out(offsets))
    arrays = {
        "position": (frames / size.frames).astype(np.float32),
        "times": frames * 1000,
        "frame_mask": np.tile(there[:, None], (1, size.frames)),
        "available": there[:, None] & np.array([True, False, True]),
        "train_count": np.bincount(kept, minlength=rows),
        "sequence": sequence,
        "offsets": offsets,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "meta.json").write_text(json.dumps({"protocol": "leave-one-out", "tokens": "frames"}))


def _histories(rng: np.random.Generator, length: np.ndarray, videos: int) -> np.ndarray:
    """Items by popularity (log-uniform ranks), none twice in a history: a copy is drawn anew until it is free."""
    total = int(length.sum())
    items = np.minimum(np.exp(rng.random(total) * np.log(videos)).astype(np.int64), videos)
    viewer = np.repeat(np.arange(len(length)), length)
    while True:
        order = np.lexsort((items, viewer))
        same = (np.diff(items[order]) == 0) & (np.diff(viewer[order]) == 0)
        if not same.any():
            return items
        again = order[1:][same]
        items[again] = rng.integers(1, videos + 1, len(again))
