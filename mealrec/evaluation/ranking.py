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
from mealrec.model.top_k import rows_at_once, top_k

Scorer = Callable[[Tensor], Tensor]  # history [B, L] -> scores [B, N + 1], which the caller may overwrite


class Ranked(NamedTuple):
    """viewer rows of the packed dataset, their targets and 1-based ranks, each [V]; shown [N + 1]: to how many viewers each
    video was recommended among the first EXPOSURE."""

    viewer: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    shown: npt.NDArray[np.int64]


EXPOSURE = 10
MOST_VIEWERS = 512  # a batch


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
    device: torch.device | str = "cpu",
) -> Ranked:
    """Rank every viewer's target among all videos the viewer has not watched before it. Everything watched is masked, also
    what is older than the model's window. batch_size None: as many viewers as have their scores in the cache together; most:
    so many viewers, evenly spaced, stand for all."""
    batch_size = batch_size or min(2 * rows_at_once(data.items), MOST_VIEWERS)
    viewers, targets, ranks = [], [], []
    shown = torch.zeros(data.items + 1, dtype=torch.int64, device=device)
    for viewer, batch in evaluation_batches(
        data, split, max_history=max_history, batch_size=batch_size, rank=rank, world=world, most=most
    ):
        target = batch.target[:, -1].to(device)
        seen = watched(data, viewer, split).to(device)
        if bool((seen == target[:, None]).any()):
            raise ValueError("a target is in its own history: the split leaks")
        masked = candidates_only(scorer(batch.history.to(device)), seen)
        top = top_k(masked, min(EXPOSURE, data.items))[1].reshape(-1)
        shown += torch.bincount(top, minlength=len(shown))
        viewers.append(viewer)
        targets.append(target.cpu().numpy())
        ranks.append(ranks_among(masked, target).cpu().numpy())
    exposure = shown.cpu().numpy()
    if not viewers:
        none = np.zeros(0, dtype=np.int64)
        return Ranked(none, none, none, exposure)
    everyone = np.concatenate(viewers)
    order = np.argsort(everyone)  # batches go by length; results by viewer, so that two systems' rows pair up
    return Ranked(everyone[order], np.concatenate(targets)[order], np.concatenate(ranks)[order], exposure)


def model_scorer(model: MealRec, gather: Gather, catalogue: Tensor) -> Scorer:
    """Scores of the full model: TCD user+item on the history, NPD, item-mode catalogue vectors [N + 1, D]."""
    tokens = catalogue_tokens(model, gather, len(catalogue) - 1)

    @torch.no_grad()
    def score(history: Tensor) -> Tensor:
        return model.scores(preference(model, gather, history, tokens).state, catalogue)

    return score


def plain_scorer(model: MealRec, vectors: Tensor) -> Scorer:
    """Scores of the model without diffusion and denoising, on plain vectors [N + 1, D]."""

    @torch.no_grad()
    def score(history: Tensor) -> Tensor:
        return model.scores(plain_state(model, vectors, history), vectors)

    return score


def baselines(data: Packed) -> dict[str, Popularity | Markov]:
    """Popularity and first-order Markov from the training part of the same dataset."""
    sequence, first = data.training_part()
    counts = data.content.train_count()
    markov = Markov(torch.from_numpy(sequence), torch.from_numpy(first), counts)
    return {"popularity": Popularity(counts), "markov": markov}
