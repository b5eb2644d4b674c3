"""Training windows and batches whose place is two integers, so that a resumed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mealrec.data.packed import Packed

Ints = npt.NDArray[np.int64]
BUCKET_BATCHES = 16  # batches whose windows are sorted by length together: little padding, still random


@dataclass(frozen=True)
class Batch:
    """history [B, L] item indices, left-padded with 0; target [B, L] the next item at each position, 0 where none;
    positions: targets of this batch over all ranks, the divisor that makes workers' gradients add up exactly. share [U]: of
    what is counted once a video, the part that is this rank's, for each distinct video of its rows in their order; None
    where it is the whole."""

    history: Tensor
    target: Tensor
    positions: int
    share: Tensor | None = None


@dataclass(frozen=True)
class Windows:
    """Training windows: rows of (start, end) into the packed sequence; end - start >= 2. Long sequences are cut into
    windows of max_history + 1 that overlap by one item, so every transition is trained on once."""

    spans: npt.NDArray[np.int64]

    @classmethod
    def of(cls, data: Packed, max_history: int) -> Windows:
        """Cost: one pass over the viewers, no loop in Python."""
        start, end = np.asarray(data.offsets[:-1]), np.asarray(data.cuts.train_end)
        count = np.maximum(-(-(end - start - 1) // max_history), 0)  # windows a viewer
        viewer = np.repeat(np.arange(len(start)), count)
        back = np.arange(len(viewer)) - np.repeat(np.cumsum(count) - count, count)  # 0 is the newest window
        ends = end[viewer] - back * max_history
        starts = np.maximum(ends - max_history - 1, start[viewer])
        return cls(np.stack([starts, ends], 1).astype(np.int64))


def steps_per_epoch(windows: Windows, batch_size: int) -> int:
    return -(-len(windows.spans) // batch_size)


def training_batches(
    data: Packed,
    windows: Windows,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Batches of one epoch from its batch number `start` on: the order depends on (seed, epoch) alone and `rank` takes every
    world-th row of each.

    A batch holds windows of like length, and about as many positions as any other: batch_size windows on average, more short
    ones or fewer long ones. Every rank yields steps_per_epoch(windows, batch_size) batches; a rank's part may be empty."""
    order = np.random.default_rng([seed, epoch]).permutation(len(windows.spans))
    positions = windows.spans[:, 1] - windows.spans[:, 0] - 1
    chunk = batch_size * BUCKET_BATCHES
    batches = [
        batch
        for part in np.split(order, range(chunk, len(order), chunk))
        for batch in _alike(part[np.argsort(positions[part], kind="stable")], positions, -(-len(part) // batch_size))
    ]
    for at in np.random.default_rng([seed, epoch, 1]).permutation(len(batches))[start:]:
        yield _window_batch(data, windows.spans[batches[at]], rank, world)


def _alike(rows: Ints, positions: Ints, count: int) -> list[Ints]:
    """`rows`, sorted by length, cut into `count` <= len(rows) runs of about as many positions, none of them empty."""
    reached = np.cumsum(positions[rows])
    cuts = np.searchsorted(reached, reached[-1] * np.arange(1, count) / count)
    # a run that one window fills alone leaves the next ones a window each
    cuts = np.maximum.accumulate(cuts - np.arange(count - 1)) + np.arange(count - 1)
    return np.split(rows, np.clip(cuts, np.arange(1, count), len(rows) - count + np.arange(1, count)))


def evaluation_batches(
    data: Packed,
    split: Literal["valid", "test"],
    *,
    max_history: int,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    most: int | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
    """Viewers that have a target, with their newest max_history items, those of like length together (so a batch holds
    little padding); target is at the last position only. most: so many viewers, evenly spaced, and no more."""
    at = np.asarray(data.target_at(split))
    viewers = np.nonzero(at >= 0)[0]
    if most is not None and len(viewers) > most:
        viewers = viewers[np.arange(most) * len(viewers) // most]
    length = np.minimum(at[viewers] - data.offsets[viewers], max_history)
    viewers = viewers[np.argsort(length, kind="stable")][rank::world]
    for part in np.split(viewers, range(batch_size, len(viewers), batch_size)):
        if len(part) == 0:
            continue
        begin = np.maximum(data.offsets[part], at[part] - max_history)
        history = _left_padded(data.sequence, np.stack([begin, at[part]], 1))
        target = torch.zeros_like(history)
        target[:, -1] = torch.from_numpy(np.asarray(data.sequence[at[part]]))
        yield part, Batch(history, target, len(part))


def watched(data: Packed, viewers: npt.NDArray[np.int64], split: Literal["valid", "test"]) -> Tensor:
    """Everything each viewer watched before the target, also what is older than a window: [B, longest], 0 = padding."""
    at = np.asarray(data.target_at(split))[viewers]
    return _left_padded(data.sequence, np.stack([np.asarray(data.offsets)[viewers], at], 1))


def _window_batch(data: Packed, spans: npt.NDArray[np.int64], rank: int, world: int) -> Batch:
    positions = int((spans[:, 1] - spans[:, 0] - 1).sum())
    mine = spans[rank::world]
    if len(mine) == 0:
        nothing = torch.zeros(0, 1, dtype=torch.int64)
        return Batch(nothing, nothing, positions)
    rows = _left_padded(data.sequence, mine)
    history = torch.where(rows[:, 1:] > 0, rows[:, :-1], 0)
    target = torch.where(rows[:, :-1] > 0, rows[:, 1:], 0)
    return Batch(history, target, positions, _share(data.sequence, spans, rank, world) if world > 1 else None)


def _share(sequence: npt.NDArray[np.int64], spans: npt.NDArray[np.int64], rank: int, world: int) -> Tensor:
    """1 / the number of ranks whose rows hold a video, for each distinct one of this rank's rows in their order."""
    held = [np.unique(_left_padded(sequence, spans[at::world])) for at in range(min(world, len(spans)))]
    own = held[rank][held[rank] > 0]
    return 1 / torch.from_numpy(sum(np.isin(own, other) for other in held)).float()


def _left_padded(sequence: npt.NDArray[np.int64], spans: npt.NDArray[np.int64]) -> Tensor:
    """Rows sequence[start:end] of spans [B, 2], 0 before their begin: [B, longest]."""
    width = max(int((spans[:, 1] - spans[:, 0]).max()), 1)
    at = spans[:, 1:] - np.arange(width, 0, -1)
    inside = at >= spans[:, :1]
    return torch.from_numpy(np.where(inside, sequence[np.where(inside, at, 0)], 0).astype(np.int64))
