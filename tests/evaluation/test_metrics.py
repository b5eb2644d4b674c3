"""Metrics and baselines against a few lines of brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.evaluation import ranking
from mealrec.evaluation.metrics import EXACT, summarise, target_ranks
from mealrec.evaluation.ranking import baselines, rank_targets
from mealrec.evaluation.salience import frame_auc
from mealrec.evaluation.significance import paired_bootstrap


def brute_rank(scores: list[float], target: int, seen: set[int]) -> int:
    order = sorted((i for i in range(1, len(scores)) if i not in seen), key=lambda i: (-scores[i], i))
    return order.index(target) + 1


def test_ranks_agree_with_sorting_also_where_scores_tie() -> None:
    draw = random.Random(0)
    for _ in range(200):
        n = draw.randint(3, 15)
        scores = [float(draw.randint(0, 4)) for _ in range(n + 1)]
        target = draw.randint(1, n)
        seen = {i for i in range(1, n + 1) if i != target and draw.random() < 0.3}
        padded = torch.tensor([[0, *sorted(seen)]])
        rank = target_ranks(torch.tensor([scores]), torch.tensor([target]), padded)
        assert int(rank) == brute_rank(scores, target, seen)


def test_a_rank_is_exact_beyond_what_float32_counts() -> None:
    scores = torch.ones(1, EXACT + 13)
    scores[0, 7] = 0.0  # behind all others but the padding
    rank = target_ranks(scores, torch.tensor([7]), torch.zeros(1, 1, dtype=torch.int64))
    assert int(rank) == EXACT + 12


def test_hit_rate_and_ndcg_follow_their_definitions() -> None:
    ranks = [1, 3, 10, 11]
    found = summarise(torch.tensor(ranks), [10])
    assert found["hr@10"] == 3 / 4
    assert math.isclose(found["ndcg@10"], sum(1 / math.log2(1 + r) for r in ranks if r <= 10) / 4)


def test_nan_scores_and_leaking_targets_are_refused() -> None:
    for row, target in itertools.product(
        ([0.0, float("nan"), 1.0], [0.0, 2.0, float("nan")], [0.0, *[float("nan")] * 2]), (1, 2)
    ):
        scores = torch.tensor([[0.0, 1.0, 2.0], row])
        with pytest.raises(ValueError, match="NaN"):
            target_ranks(scores, torch.tensor([1, target]), torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="leaks"):
        target_ranks(torch.rand(1, 3), torch.tensor([2]), torch.tensor([[2]]))


def test_markov_counts_transitions_of_the_training_part(packed: Packed) -> None:
    counts: Counter[tuple[int, int]] = Counter()
    popular: Counter[int] = Counter()
    for viewer in range(packed.viewers):
        row = packed.history(viewer, "train").tolist()
        popular.update(row)
        counts.update(itertools.pairwise(row))
    total = sum(popular.values())
    scores = baselines(packed)["markov"].scores(torch.tensor([[1], [7], [0]]))
    for row, last in enumerate([1, 7, 0]):
        for item in range(1, packed.items + 1):
            assert math.isclose(float(scores[row, item]), counts[last, item] + popular[item] / total)


def test_every_viewer_is_ranked_once_however_many_workers_share_them(packed: Packed) -> None:
    scorer = baselines(packed)["markov"].scores
    alone = rank_targets(scorer, packed, "test", max_history=8)
    shared = [rank_targets(scorer, packed, "test", max_history=8, rank=r, world=3, batch_size=5) for r in range(3)]
    together = sorted((int(v), int(k)) for part in shared for v, k in zip(part.viewer, part.rank, strict=True))
    assert together == sorted((int(v), int(k)) for v, k in zip(alone.viewer, alone.rank, strict=True))


def test_ranks_do_not_depend_on_how_many_rows_are_counted_together(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = baselines(packed)["markov"].scores
    whole = rank_targets(scorer, packed, "test", max_history=8, exposure=True)
    monkeypatch.setattr(ranking, "rows_at_once", lambda videos: 3)
    again = rank_targets(scorer, packed, "test", max_history=8, exposure=True)
    assert len(whole.rank) > 3 and np.array_equal(whole.rank, again.rank) and np.array_equal(whole.shown, again.shown)
    assert whole.shown.sum() == 10 * len(whole.rank)
    assert len(rank_targets(scorer, packed, "test", max_history=8).shown) == 0, "not asked for"


def test_a_cyclic_world_is_ranked_better_by_transitions_than_by_popularity(packed: Packed) -> None:
    hits = {
        name: float((rank_targets(b.scores, packed, "test", max_history=8).rank <= 3).mean())
        for name, b in baselines(packed).items()
    }
    assert hits["markov"] > hits["popularity"] + 0.2


def test_the_bootstrap_interval_covers_a_known_difference_and_repeats() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(size=500)
    a = b + 0.3 + 0.1 * rng.normal(size=500)
    interval = paired_bootstrap(a, b, samples=500, confidence=0.95, seed=1)
    assert interval == paired_bootstrap(a, b, samples=500, confidence=0.95, seed=1)
    assert interval.low < 0.3 < interval.high and interval.high - interval.low < 0.03
    same = paired_bootstrap(b, b, samples=100, confidence=0.95, seed=1)
    assert same.low == same.high == 0.0
    with pytest.raises(ValueError, match="same viewers"):
        paired_bootstrap(a, b[:-1], samples=100, confidence=0.95, seed=1)


def test_salience_auc_is_one_half_for_uniform_weights_and_one_for_the_truth() -> None:
    truth = [np.array([True, False, False, True]), np.array([False, True]), np.array([True, True])]
    uniform = frame_auc([np.full(4, 0.25), np.full(2, 0.5), np.full(2, 0.5)], truth)
    assert uniform == (0.5, 2, 6)  # the third video has nothing to tell apart
    perfect = frame_auc([np.array([0.4, 0.1, 0.1, 0.4]), np.array([0.2, 0.8]), np.array([0.5, 0.5])], truth)
    assert perfect.auc == 1.0
    inverted = frame_auc([np.array([0.1, 0.4, 0.4, 0.1]), np.array([0.8, 0.2]), np.array([0.5, 0.5])], truth)
    assert inverted.auc == 0.0
