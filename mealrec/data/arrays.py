"""Content of the catalogue as mapped arrays: the same files in a packed dataset and in a model bundle.

visual.npy      float16 [N + 1, F, d_v]; audio.npy [N + 1, F, d_a]; text.npy [N + 1, d_t]; row 0 is padding
position.npy    float32 [N + 1, F]; times.npy int64 [N + 1, F] ms, -1 where there is no frame
frame_mask.npy  bool [N + 1, F]; available.npy bool [N + 1, 3]
train_count.npy int64 [N + 1], training interactions
recent.npy      float32 [N + 1], interactions, recent ones worth more (recency.py); only where the interactions had times
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mealrec.model.content import Content

RECENT = "recent"
ARRAYS = ("visual", "audio", "text", "position", "times", "frame_mask", "available", "train_count")


@dataclass(frozen=True)
class ContentArrays:
    """Mapped read-only; memory: what the gathered rows touch, shared by the processes of a node."""

    root: Path
    arrays: dict[str, npt.NDArray[Any]]

    @classmethod
    def open(cls, root: Path) -> ContentArrays:
        """Raises ValueError naming the missing files or the array of the wrong length."""
        missing = [name for name in ARRAYS if not (root / f"{name}.npy").is_file()]
        if missing:
            raise ValueError(f"{root}: content arrays missing: {', '.join(missing)}")
        there = [*ARRAYS, RECENT] if (root / f"{RECENT}.npy").is_file() else ARRAYS
        arrays = {name: np.load(root / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in there}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{root}: arrays of different lengths: {lengths}")
        return cls(root, arrays)

    def gather(self, index: Tensor) -> Content:
        """Features of the items `index` [n] on index's device. Cost: n rows read."""
        rows = index.cpu().numpy()
        take = {
            name: torch.from_numpy(np.ascontiguousarray(self.arrays[name][rows])).to(index.device)
            for name in ARRAYS
            if name != "times"
        }
        return Content(
            take["visual"].float(),
            take["audio"].float(),
            take["text"].float(),
            take["position"],
            take["frame_mask"],
            take["available"],
            take["train_count"].float().log1p(),
        )

    def mapped(self, name: str) -> Tensor:
        """An array as it lies on disk; what is written to it reaches no file."""
        return torch.from_numpy(np.load(self.root / f"{name}.npy", mmap_mode="c", allow_pickle=False))

    @property
    def items(self) -> int:
        """N, padding not counted."""
        return len(self.arrays["available"]) - 1

    @property
    def dims(self) -> dict[str, int]:
        """Widths that a model for these arrays needs (ModelSettings)."""
        visual, audio, text = (self.arrays[n].shape for n in ("visual", "audio", "text"))
        return {
            "items": self.items,
            "frames": int(visual[1]),
            "visual_dim": int(visual[2]),
            "audio_dim": int(audio[2]),
            "text_dim": int(text[1]),
        }

    def available(self) -> Tensor:
        return torch.from_numpy(np.array(self.arrays["available"]))

    def text(self) -> Tensor:
        """Titles of the whole catalogue, float16 [N + 1, d_t]."""
        return torch.from_numpy(np.array(self.arrays["text"]))

    def has_frames(self) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays["frame_mask"]).any(1))

    def train_count(self) -> Tensor:
        return torch.from_numpy(np.array(self.arrays["train_count"]))

    def recent_popularity(self) -> Tensor:
        """float32 [N + 1]; training interactions alike where nobody knows when they were."""
        found = self.arrays.get(RECENT)
        return self.train_count().float() if found is None else torch.from_numpy(np.array(found))

    def log_popularity(self) -> Tensor:
        return self.train_count().float().log1p()

    def times(self) -> Tensor:
        return torch.from_numpy(np.array(self.arrays["times"]))

    def copy_to(self, folder: Path) -> None:
        """Copy the files into a model bundle."""
        for name in self.arrays:
            shutil.copyfile(self.root / f"{name}.npy", folder / f"{name}.npy")
