"""What a recommender says of itself while it answers: how sure its scores are, and how unusual a history is to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mealrec.model.inference import preference
from mealrec.serving.recommender import Recommender

VIEWERS_A_BATCH = 128


@dataclass(frozen=True)
class Signals:
    """One value a viewer with at least one known video: best score, its distance to the second, and how far NPD moved the
    state (`unusual`, 0 for a model without it). Counts: viewers without a known video, history entries and unknown ones."""

    top: npt.NDArray[np.float32]
    gap: npt.NDArray[np.float32]
    unusual: npt.NDArray[np.float32]
    viewers: int
    empty: int
    entries: int
    unknown: int


@torch.no_grad()
def signals(recommender: Recommender, histories: Sequence[Sequence[int]]) -> Signals:
    """Score these histories of item indices, oldest first. An index above the model's catalogue is unknown to it.

    Cost: as recommending to them. Memory: one batch x N scores."""
    newest, videos = recommender.model.settings.max_history, len(recommender.video_ids)
    known = [[i for i in history if i <= videos][-newest:] for history in histories]
    rows = [row for row in known if row]
    parts = [_batch(recommender, rows[at : at + VIEWERS_A_BATCH]) for at in range(0, len(rows), VIEWERS_A_BATCH)]
    figures = torch.cat(parts, 1) if parts else torch.zeros(3, 0)
    top, second, unusual = figures.numpy()
    return Signals(
        top=top,
        gap=top - second,
        unusual=unusual,
        viewers=len(histories),
        empty=len(histories) - len(rows),
        entries=sum(len(h) for h in histories),
        unknown=sum(i > videos for h in histories for i in h),
    )


def _batch(recommender: Recommender, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Best and second score and `unusual`, [3, B]."""
    width = max(len(row) for row in rows)
    history = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], dtype=torch.int64)
    found = preference(recommender.model, recommender.content.gather, history)
    scores = recommender.model.scores(found.state, recommender.catalogue)
    scores[:, 0] = -torch.inf
    scores.scatter_(1, history, -torch.inf)
    best = scores.topk(2, dim=1).values
    return torch.stack([best[:, 0], best[:, 1], found.unusual])
