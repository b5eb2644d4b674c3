"""Training windows and batches whose place is two integers, so that a resumed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mealrec.data.packed import HELD_OUT, Packed

BUCKET_BATCHES = 8  # batches whose viewers are sorted by length together: little padding, still random


@dataclass(frozen=True)
class Batch:
    """history [B, L] item indices, left-padded with 0; target [B, L] the next item at each position, 0 where none;
    positions: targets of this batch over all ranks, the divisor that makes workers' gradients add up exactly."""

    history: Tensor
    target: Tensor
    positions: int


@dataclass(frozen=True)
class Windows:
    """Training windows: rows of (start, end) into the packed sequence; end - start >= 2. Long sequences are cut into
    windows of max_history + 1 that overlap by one item, so every transition is trained on once."""

    spans: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: Packed, max_history: int) -> Windows:
        spans = []
        for viewer in range(data.viewers):
            start, end = int(data.offsets[viewer]), int(data.offsets[viewer + 1]) - HELD_OUT
            while end - start >= 2:
                spans.append((max(end - max_history - 1, start), end))
                end -= max_history
        return cls(np.array(spans, dtype=np.int64).reshape(-1, 2))


def steps_per_epoch(windows: Windows, batch_size: int) -> int:
    return -(-len(windows.spans) // batch_size)


def training_batches(
    data: Packed, windows: Windows, *, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Batches of one epoch: the order depends on (seed, epoch) alone and `rank` takes every world-th row of each.

    Every rank yields steps_per_epoch(windows, batch_size) batches; one may be empty (0 rows) at the very end."""
    order = np.random.default_rng([seed, epoch]).permutation(len(windows.spans))
    length = windows.spans[:, 1] - windows.spans[:, 0]
    chunk = batch_size * BUCKET_BATCHES
    order = np.concatenate(
        [part[np.argsort(length[part], kind="stable")] for part in np.split(order, range(chunk, len(order), chunk))]
    )
    batches = np.split(order, range(batch_size, len(order), batch_size))
    for at in np.random.default_rng([seed, epoch, 1]).permutation(len(batches)):
        yield _window_batch(data, windows.spans[batches[at]], rank, world)


def evaluation_batches(
    data: Packed, split: Literal["valid", "test"], *, max_history: int, batch_size: int, rank: int = 0, world: int = 1
) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
    """Viewers that have a target, with their newest max_history items; target is at the last position only."""
    least = 2 if split == "test" else 3
    viewers = np.nonzero(np.diff(data.offsets) >= least)[0][rank::world]
    for part in np.split(viewers, range(batch_size, len(viewers), batch_size)):
        if len(part) == 0:
            continue
        rows = [data.history(int(v), split)[-max_history:] for v in part]
        history = _left_pad(rows)
        target = torch.zeros_like(history)
        target[:, -1] = torch.tensor([data.target(int(v), split) for v in part])
        yield part, Batch(history, target, len(part))


def _window_batch(data: Packed, spans: npt.NDArray[np.int64], rank: int, world: int) -> Batch:
    positions = int((spans[:, 1] - spans[:, 0] - 1).sum())
    rows = [np.asarray(data.sequence[start:end]) for start, end in spans[rank::world]]
    if not rows:
        nothing = torch.zeros(0, 1, dtype=torch.int64)
        return Batch(nothing, nothing, positions)
    return Batch(_left_pad([r[:-1] for r in rows]), _left_pad([r[1:] for r in rows]), positions)


def _left_pad(rows: list[npt.NDArray[np.int64]]) -> Tensor:
    width = max(max(len(r) for r in rows), 1)
    out = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        if len(row):
            out[i, width - len(row) :] = row
    return torch.from_numpy(out)
