"""Full ranking of held-out targets, history masked. Runs on torch and numpy alone.

Cost: one preference for each viewer and one B x N score block a batch; nothing of size viewers x N is ever held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mealrec.data.batches import evaluation_batches
from mealrec.data.packed import Packed, training_part
from mealrec.evaluation.metrics import target_ranks
from mealrec.model.baselines import Markov, Popularity
from mealrec.model.inference import Gather, preference
from mealrec.model.mealrec import MealRec

Scorer = Callable[[Tensor], Tensor]  # history [B, L] -> scores [B, N + 1]


class Ranked(NamedTuple):
    """viewer rows of the packed dataset, their targets and 1-based ranks, each [V]."""

    viewer: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]


def rank_targets(
    scorer: Scorer,
    data: Packed,
    split: Literal["valid", "test"],
    *,
    max_history: int,
    batch_size: int = 512,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
) -> Ranked:
    """Rank every viewer's target among all videos the viewer has not watched before it. Everything watched is masked, also
    what is older than the model's window."""
    viewers, targets, ranks = [], [], []
    for viewer, batch in evaluation_batches(
        data, split, max_history=max_history, batch_size=batch_size, rank=rank, world=world
    ):
        target = batch.target[:, -1].to(device)
        scores = scorer(batch.history.to(device))
        seen = _watched(data, viewer, split).to(device)
        viewers.append(viewer)
        targets.append(target.cpu().numpy())
        ranks.append(target_ranks(scores, target, seen).cpu().numpy())
    if not viewers:
        none = np.zeros(0, dtype=np.int64)
        return Ranked(none, none, none)
    return Ranked(np.concatenate(viewers), np.concatenate(targets), np.concatenate(ranks))


def model_scorer(model: MealRec, gather: Gather, catalogue: Tensor) -> Scorer:
    """Scores of the full model: TCD user+item on the history, NPD, item-mode catalogue vectors [N + 1, D]."""

    @torch.no_grad()
    def score(history: Tensor) -> Tensor:
        return model.scores(preference(model, gather, history).state, catalogue)

    return score


def id_scorer(model: MealRec) -> Scorer:
    """Scores of the ID-only pass (stage S0, and the SASRec row of a report)."""

    @torch.no_grad()
    def score(history: Tensor) -> Tensor:
        return model.scores(model.id_states(history)[:, -1], model.ids.weight)

    return score


def baseline_scorer(baseline: Popularity | Markov) -> Scorer:
    return lambda history: baseline.scores(history[:, -1])


def baselines(data: Packed) -> dict[str, Popularity | Markov]:
    """Popularity and first-order Markov from the training part of the same dataset."""
    sequence, first = training_part(data.sequence, data.offsets)
    counts = data.content.train_count()
    markov = Markov(torch.from_numpy(sequence), torch.from_numpy(first), counts)
    return {"popularity": Popularity(counts), "markov": markov}


def _watched(data: Packed, viewers: npt.NDArray[np.int64], split: Literal["valid", "test"]) -> Tensor:
    """Everything each viewer watched before the target, padded with 0: [B, longest]."""
    rows = [data.history(int(v), split) for v in viewers]
    width = max(max(len(r) for r in rows), 1)
    out = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(np.array(row))
    return out
