"""ItemKNN against its definition, written the slow way."""

from __future__ import annotations

import torch

from mealrec.data.packed import Packed
from mealrec.model.baselines import ItemKNN


def slow(rows: list[list[int]], counts: list[int], history: list[int], shrink: float, decay: float) -> list[float]:
    n = len(counts)
    both = [[0] * n for _ in range(n)]
    for row in rows:
        for a in row:
            for b in row:
                both[a][b] += a != b
    scores = [c / max(sum(counts), 1) * 1e-6 for c in counts]
    for age, item in enumerate(reversed(history)):
        for other in range(1, n):
            together = both[item][other]
            if together:
                cosine = together / (counts[item] * counts[other]) ** 0.5
                scores[other] += decay**age * cosine * together / (together + shrink)
    return scores


def test_scores_are_those_of_the_definition(packed: Packed) -> None:
    sequence, first = packed.training_part()
    counts = packed.content.train_count()
    rows = [packed.history(v, "train").tolist() for v in range(packed.viewers)]
    model = ItemKNN(torch.from_numpy(sequence), torch.from_numpy(first), counts, neighbours=30, shrink=2.0, decay=0.7)
    history = [3, 9, 10]
    wanted = torch.tensor(slow(rows, counts.tolist(), history, 2.0, 0.7), dtype=torch.float64)
    assert torch.allclose(model.scores(torch.tensor([[0, *history]]))[0][1:], wanted[1:], atol=1e-9)


def test_only_the_best_neighbours_vote(packed: Packed) -> None:
    sequence, first = packed.training_part()
    counts = packed.content.train_count()
    few = ItemKNN(torch.from_numpy(sequence), torch.from_numpy(first), counts, neighbours=2)
    many = ItemKNN(torch.from_numpy(sequence), torch.from_numpy(first), counts, neighbours=30)
    votes = [int((m.scores(torch.tensor([[7]]))[0] > 1e-3).sum()) for m in (few, many)]
    assert votes[0] == 2 < votes[1]
    best = many.scores(torch.tensor([[7]]))[0].topk(2).indices.sort().values
    assert torch.equal(few.scores(torch.tensor([[7]]))[0].topk(2).indices.sort().values, best)
