"""A packed dataset: one folder of .npy arrays that every worker of a node maps into memory instead of loading.

    items.json         video ids; item_index i is items[i - 1]
    viewers.npy        user ids (fixed-width unicode)
    sequence.npy       int64, all viewers' item indices one after another, oldest first
    offsets.npy        int64 [viewers + 1]
    meta.json          held_out (2: leave-one-out), and where it came from
    and the content arrays of `arrays.py`
Needs numpy and torch alone, so training runs on a bare machine from such a folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mealrec.data.arrays import ContentArrays

Split = Literal["train", "valid", "test"]
HELD_OUT = 2  # leave-one-out: the last item is the test target, the one before it the validation target


@dataclass(frozen=True)
class Packed:
    """A packed dataset, arrays mapped read-only. Memory: what the batches touch."""

    root: Path
    meta: dict[str, Any]
    sequence: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    content: ContentArrays

    @classmethod
    def open(cls, root: Path) -> Packed:
        """Map the folder. Raises ValueError naming the file when one is missing."""
        missing = [n for n in ("meta.json", "sequence.npy", "offsets.npy") if not (root / n).is_file()]
        if missing:
            raise ValueError(f"{root} is no packed dataset: {', '.join(missing)} missing")
        meta = json.loads((root / "meta.json").read_text())
        sequence = np.load(root / "sequence.npy", mmap_mode="r", allow_pickle=False)
        offsets = np.load(root / "offsets.npy", mmap_mode="r", allow_pickle=False)
        return cls(root, meta, sequence, offsets, ContentArrays.open(root))

    @property
    def viewers(self) -> int:
        return len(self.offsets) - 1

    @property
    def items(self) -> int:
        return self.content.items

    def item_ids(self) -> list[str]:
        ids: list[str] = json.loads((self.root / "items.json").read_text())
        return ids

    def user_ids(self) -> npt.NDArray[np.str_]:
        ids: npt.NDArray[np.str_] = np.load(self.root / "viewers.npy", mmap_mode="r", allow_pickle=False)
        return ids

    def history(self, viewer: int, split: Split) -> npt.NDArray[np.int64]:
        """What is known of a viewer before the split's target; for `train` the whole training part."""
        start, end = int(self.offsets[viewer]), int(self.offsets[viewer + 1])
        held = HELD_OUT - 1 if split == "test" else HELD_OUT
        return self.sequence[start : max(end - held, start)]

    def target(self, viewer: int, split: Literal["valid", "test"]) -> int:
        """The held-out item of a viewer."""
        return int(self.sequence[int(self.offsets[viewer + 1]) - (2 if split == "valid" else 1)])


def training_part(
    sequence: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """All interactions but each viewer's held-out ones, and which of them is its viewer's first."""
    keep = np.ones(len(sequence), dtype=bool)
    first = np.zeros(len(sequence), dtype=bool)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    for back in range(1, HELD_OUT + 1):
        at = offsets[1:] - back
        keep[at[at >= offsets[:-1]]] = False
    return np.asarray(sequence)[keep], first[keep]
