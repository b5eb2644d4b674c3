"""Windows and batches: every transition once, however many workers share the rows."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.data.batches import Batch, Windows, _alike, evaluation_batches, steps_per_epoch, training_batches
from mealrec.data.packed import Packed
from mealrec.training.step import distinct


def transitions(batches: list[Batch]) -> Counter[tuple[int, int]]:
    out: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        keep = batch.target > 0
        out.update(zip(batch.history[keep].tolist(), batch.target[keep].tolist(), strict=True))
    return out


def expected(packed: Packed) -> Counter[tuple[int, int]]:
    out: Counter[tuple[int, int]] = Counter()
    for viewer in range(packed.viewers):
        row = packed.history(viewer, "train").tolist()
        out.update(itertools.pairwise(row))
    return out


@pytest.mark.parametrize("max_history", [2, 3, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_training_transition_is_seen_once(packed: Packed, max_history: int, world: int) -> None:
    windows = Windows.of(packed, max_history)
    shared = [
        list(training_batches(packed, windows, batch_size=7, seed=1, epoch=4, rank=r, world=world))
        for r in range(world)
    ]
    assert {len(b) for b in shared} == {steps_per_epoch(windows, 7)}
    assert transitions([b for rank in shared for b in rank]) == expected(packed)
    for step in zip(*shared, strict=True):
        held = sum(int((b.target > 0).sum()) for b in step)
        assert {b.positions for b in step} == {held}


def test_what_is_counted_once_a_video_is_shared_by_the_ranks_that_hold_it(packed: Packed) -> None:
    windows = Windows.of(packed, 8)
    plain = list(training_batches(packed, windows, batch_size=20, seed=1, epoch=4))
    assert all(batch.share is None for batch in plain)
    ranks = [training_batches(packed, windows, batch_size=20, seed=1, epoch=4, rank=r, world=3) for r in range(3)]
    for whole, *parts in zip(plain, *ranks, strict=True):
        counted: Counter[int] = Counter()
        for part in parts:
            if part.share is not None:  # a rank without a row
                counted.update(
                    dict(zip(distinct(part.history, part.target).tolist(), part.share.tolist(), strict=True))
                )
        assert set(counted) == set(distinct(whole.history, whole.target).tolist())
        assert all(total == pytest.approx(1) for total in counted.values())


def test_epochs_differ_and_repeat_with_the_seed(packed: Packed) -> None:
    windows = Windows.of(packed, 8)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [
            b.target[:, -1].tolist() for b in training_batches(packed, windows, batch_size=7, seed=seed, epoch=epoch)
        ]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_holds_out_the_right_item(packed: Packed, split: str) -> None:
    back = 2 if split == "valid" else 1
    seen = 0
    for viewers, batch in evaluation_batches(packed, split, max_history=50, batch_size=6):  # type: ignore[arg-type]
        for row, viewer in enumerate(viewers):
            whole = packed.sequence[packed.offsets[viewer] : packed.offsets[viewer + 1]].tolist()
            assert int(batch.target[row, -1]) == whole[-back]
            assert batch.history[row][batch.history[row] > 0].tolist() == whole[:-back]
            seen += 1
    assert seen == packed.viewers


def test_a_bound_takes_viewers_from_everywhere(packed: Packed) -> None:
    def taken(most: int | None, world: int = 1) -> list[int]:
        parts = [
            viewers
            for rank in range(world)
            for viewers, _ in evaluation_batches(
                packed, "valid", max_history=50, batch_size=6, rank=rank, world=world, most=most
            )
        ]
        return sorted(int(v) for part in parts for v in part)

    everyone = taken(None)
    some = taken(5)
    assert len(some) == 5 and set(some) <= set(everyone) and max(some) > everyone[len(everyone) // 2]
    assert taken(5, world=2) == some and taken(10**6) == everyone


def test_popularity_counts_training_interactions_alone(packed: Packed) -> None:
    counts = Counter(i for v in range(packed.viewers) for i in packed.history(v, "train").tolist())
    assert packed.content.train_count().tolist() == [counts[i] for i in range(packed.items + 1)]


def test_a_missing_array_is_named(packed: Packed) -> None:
    (packed.root / "text.npy").unlink()
    with pytest.raises(ValueError, match="content arrays missing: text"):
        Packed.open(packed.root)
    with pytest.raises(ValueError, match=r"meta\.json, sequence\.npy, offsets\.npy missing"):
        Packed.open(Path(packed.root).parent)


def test_content_follows_its_index(packed: Packed) -> None:
    content = packed.content.gather(torch.tensor([7, 2]))
    assert torch.equal(content.visual[0], torch.from_numpy(packed.content.arrays["visual"][7].astype("float32")))
    assert torch.equal(content.frame_mask[1], torch.from_numpy(packed.content.arrays["frame_mask"][2]))


def test_batches_hold_alike_windows_and_about_as_many_positions_each(packed: Packed) -> None:
    lengths = np.random.default_rng(0).geometric(0.2, 500) + 1
    ends = np.cumsum(lengths)
    spans = Windows(np.stack([ends - lengths, ends], 1))
    longer = dataclasses.replace(packed, sequence=np.ones(int(ends[-1]), np.int64))
    batches = list(training_batches(longer, spans, batch_size=25, seed=0, epoch=0))
    positions = [b.positions for b in batches]
    assert len(batches) == steps_per_epoch(spans, 25) and min(len(b.history) for b in batches) > 0
    assert sum(positions) > 0.8 * sum(b.history.numel() for b in batches), "padding"
    assert max(positions) < 1.6 * min(positions)


def test_one_window_longer_than_a_batch_leaves_no_batch_empty() -> None:
    positions = np.array([1, 1, 1, 100, 1])
    parts = _alike(np.array([0, 1, 2, 4, 3]), positions, 4)
    assert len(parts) == 4 and min(len(p) for p in parts) == 1
    assert sorted(np.concatenate(parts).tolist()) == [0, 1, 2, 3, 4]
