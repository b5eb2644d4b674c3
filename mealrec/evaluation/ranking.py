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

from mealrec.data.batches import evaluation_batches, watched
from mealrec.data.packed import Packed
from mealrec.evaluation.metrics import candidates_only, ranks_among
from mealrec.model.baselines import Markov, Popularity
from mealrec.model.inference import Gather, catalogue_tokens, plain_state, preference
from mealrec.model.mealrec import MealRec
from mealrec.model.precision import exact_products
from mealrec.model.softmax import aligned
from mealrec.model.top_k import rows_at_once, top_k

# history [B, L] -> scores [B, N + 1], which the caller may overwrite and the next call does
Scorer = Callable[[Tensor], Tensor]


class Ranked(NamedTuple):
    """viewer rows of the packed dataset, their targets and 1-based ranks, each [V]; shown [N + 1]: to how many viewers each
    video was recommended among the first EXPOSURE, empty where that was not asked for."""

    viewer: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    shown: npt.NDArray[np.int64]


EXPOSURE = 10
MOST_VIEWERS = 1024  # a batch
SCORES_HELD = 1 << 24  # of a batch: 64 MiB of float32


def rank_targets(
    scorer: Scorer,
    data: Packed,
    split: Literal["valid", "test"],
    *,
    max_history: int,
    batch_size: int | None = None,
    rank: int = 0,
    world: int = 1,
    most: int | None = None,
    exposure: bool = False,
    device: torch.device | str = "cpu",
) -> Ranked:
    """Rank every viewer's target among all videos the viewer has not watched before it. Everything watched is masked, also
    what is older than the model's window. batch_size: viewers that are encoded together, None for as many as have
    SCORES_HELD scores; most: so many viewers, evenly spaced, stand for all; exposure: `shown` is counted too, which takes some
    fifth of the time more."""
    batch_size = batch_size or max(min(SCORES_HELD // data.items, MOST_VIEWERS), 1)
    viewers, targets, ranks = [], [], []
    shown = torch.zeros(data.items + 1 if exposure else 0, dtype=torch.int64, device=device)
    rows = 2 * rows_at_once(data.items)  # their scores are read several times while they are in the cache
    space = torch.empty(rows, data.items + 1, device=device)  # fresh memory costs more than counting in it
    for viewer, batch in evaluation_batches(
        data, split, max_history=max_history, batch_size=batch_size, rank=rank, world=world, most=most
    ):
        target = batch.target[:, -1].to(device)
        seen = watched(data, viewer, split).to(device)
        if bool((seen == target[:, None]).any()):
            raise ValueError("a target is in its own history: the split leaks")
        with exact_products(device):
            scores = scorer(batch.history.to(device))
        top = []
        for at in range(0, len(scores), rows):
            here = slice(at, at + rows)
            masked = candidates_only(scores[here], seen[here])
            ranks.append(ranks_among(masked, target[here], space).cpu().numpy())
            if exposure:
                top.append(top_k(masked, min(EXPOSURE, data.items))[1].reshape(-1))
        if exposure:
            shown += torch.bincount(torch.cat(top), minlength=len(shown))
        viewers.append(viewer)
        targets.append(target.cpu().numpy())
    counted = shown.cpu().numpy()
    if not viewers:
        none = np.zeros(0, dtype=np.int64)
        return Ranked(none, none, none, counted)
    everyone = np.concatenate(viewers)
    order = np.argsort(everyone)  # batches go by length; results by viewer, so that two systems' rows pair up
    return Ranked(everyone[order], np.concatenate(targets)[order], np.concatenate(ranks)[order], counted)


def model_scorer(model: MealRec, gather: Gather, catalogue: Tensor) -> Scorer:
    """Scores of the full model: TCD user+item on the history, NPD, item-mode catalogue vectors [N + 1, D]."""
    tokens = catalogue_tokens(model, gather, len(catalogue) - 1)
    scores = _Scores(model, catalogue)
    return lambda history: scores.of(preference(model, gather, history, tokens).state)


def plain_scorer(model: MealRec, vectors: Tensor) -> Scorer:
    """Scores of the model without diffusion and denoising, on plain vectors [N + 1, D]."""
    scores = _Scores(model, vectors)
    return lambda history: scores.of(plain_state(model, vectors, history))


class _Scores:
    """Scores of states [B, D] against a catalogue [N + 1, D], in one piece of memory for all batches."""

    def __init__(self, model: MealRec, catalogue: Tensor) -> None:
        self.model, self.catalogue = model, catalogue
        self.width = aligned(len(catalogue))
        self.space = catalogue.new_empty(0, self.width)

    @torch.no_grad()
    def of(self, states: Tensor) -> Tensor:
        if len(states) > len(self.space):
            self.space = self.catalogue.new_empty(len(states), self.width)
        return self.model.scores(states, self.catalogue, out=self.space[: len(states), : len(self.catalogue)])


def baselines(data: Packed) -> dict[str, Popularity | Markov]:
    """Popularity and first-order Markov from the training part of the same dataset."""
    sequence, first = data.training_part()
    counts = data.content.train_count()
    markov = Markov(torch.from_numpy(sequence), torch.from_numpy(first), counts)
    return {"popularity": Popularity(counts), "markov": markov}
