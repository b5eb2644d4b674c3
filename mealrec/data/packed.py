"""A packed dataset: one folder of .npy arrays that every worker of a node maps into memory instead of loading.

    items.json         video ids; item_index i is items[i - 1]
    viewers.npy        uint8, user ids in UTF-8 one after another: a fixed width would be that of the longest
    viewer_offsets.npy int64 [viewers + 1], where each id begins
    sequence.npy       int64, all viewers' item indices one after another, oldest first
    offsets.npy        int64 [viewers + 1]
    cuts.npy           int64 [viewers, 3], only where the split is not leave-one-out (split.py)
    meta.json          protocol, tokens, and where it came from
    and the content arrays of `arrays.py` with their means (means.py)
Needs numpy and torch alone, so training runs on a bare machine from such a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mealrec.data.arrays import ContentArrays
from mealrec.data.split import Cuts, Protocol, leave_one_out, training_rows

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Packed:
    """A packed dataset, arrays mapped read-only. Memory: what the batches touch."""

    root: Path
    meta: dict[str, Any]
    sequence: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    content: ContentArrays
    cuts: Cuts

    @classmethod
    def open(cls, root: Path) -> Packed:
        """Map the folder. Raises ValueError naming the file when one is missing."""
        missing = [n for n in ("meta.json", "sequence.npy", "offsets.npy") if not (root / n).is_file()]
        if missing:
            raise ValueError(f"{root} is no packed dataset: {', '.join(missing)} missing")
        meta = json.loads((root / "meta.json").read_text())
        sequence = np.load(root / "sequence.npy", mmap_mode="r", allow_pickle=False)
        offsets = np.load(root / "offsets.npy", mmap_mode="r", allow_pickle=False)
        protocol: Protocol = meta.get("protocol", "leave-one-out")
        cuts = leave_one_out(offsets) if protocol == "leave-one-out" else _stored_cuts(root)
        return cls(root, meta, sequence, offsets, ContentArrays.open(root), cuts)

    @property
    def viewers(self) -> int:
        return len(self.offsets) - 1

    @property
    def items(self) -> int:
        return self.content.items

    def item_ids(self) -> list[str]:
        ids: list[str] = json.loads((self.root / "items.json").read_text())
        return ids

    def user_ids(self, viewers: Iterable[int]) -> list[str]:
        """Ids of these viewers. Cost: what is asked for."""
        names = ("viewers.npy", "viewer_offsets.npy")
        raw, offsets = (np.asarray(np.load(self.root / n, mmap_mode="r", allow_pickle=False)) for n in names)
        return [raw[offsets[viewer] : offsets[viewer + 1]].tobytes().decode() for viewer in viewers]

    def history(self, viewer: int, split: Split) -> npt.NDArray[np.int64]:
        """What is known of a viewer before the split's target; for `train` the whole training part."""
        start = int(self.offsets[viewer])
        end = int({"train": self.cuts.train_end, "valid": self.cuts.valid_at, "test": self.cuts.test_at}[split][viewer])
        return self.sequence[start : max(end, start)]

    def target_at(self, split: Literal["valid", "test"]) -> npt.NDArray[np.int64]:
        """Position of every viewer's held-out item in the sequence, -1 where there is none."""
        return self.cuts.valid_at if split == "valid" else self.cuts.test_at

    def target(self, viewer: int, split: Literal["valid", "test"]) -> int:
        """The held-out item of a viewer. Raises ValueError for a viewer without one."""
        at = int(self.target_at(split)[viewer])
        if at < 0:
            raise ValueError(f"viewer {viewer} has no {split} target")
        return int(self.sequence[at])

    def training_part(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """All training interactions, viewer after viewer, and which of them is its viewer's first."""
        return training_part(self.sequence, self.offsets, self.cuts)


def save_user_ids(folder: Path, ids: Sequence[str]) -> None:
    """As Packed.user_ids reads them."""
    names = [name.encode() for name in ids]
    np.save(folder / "viewers.npy", np.frombuffer(b"".join(names), np.uint8))
    np.save(folder / "viewer_offsets.npy", np.cumsum([0, *map(len, names)], dtype=np.int64))


def training_part(
    sequence: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], cuts: Cuts
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """All interactions but the held-out ones, and which of them is its viewer's first."""
    keep = training_rows(offsets, cuts)
    first = np.zeros(len(sequence), dtype=bool)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    return np.asarray(sequence)[keep], first[keep]


def _stored_cuts(root: Path) -> Cuts:
    stored = np.load(root / "cuts.npy", mmap_mode="r", allow_pickle=False)
    return Cuts(stored[:, 0], stored[:, 1], stored[:, 2])
