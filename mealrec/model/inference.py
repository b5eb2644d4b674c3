"""From stored content to vectors and scores, without randomness: shared by validation, evaluation and serving.

`gather` fetches the content of item indices (from mapped files or from a bundle), so nothing here knows where it lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mealrec.model.content import Content
from mealrec.model.layers import spread
from mealrec.model.mealrec import History, MealRec

Gather = Callable[[Tensor], Content]


class Described(NamedTuple):
    """Item-mode content of videos: pooled tokens v and described content [n, D], salience [n, F]."""

    pooled: Tensor
    described: Tensor
    salience: Tensor


class Preference(NamedTuple):
    """Viewers' denoised states h [B, D] and, for every history position, the frames' salience [B, L, F]."""

    state: Tensor
    salience: Tensor


@torch.no_grad()
def describe(model: MealRec, gather: Gather, index: Tensor) -> Described:
    """Item-mode TCD of the videos `index` [n] (nonzero). Cost: n denoiser runs."""
    content = gather(index)
    ids = model.id_vectors(index, content.log_popularity)
    encoded = model.encode(model.scene(content), content, ids, model.conditions(None, ids))
    return Described(encoded.pooled, encoded.described, encoded.salience)


def describe_range(model: MealRec, gather: Gather, start: int, end: int, *, chunk: int = 512) -> Described:
    """`describe` for the items start..end-1, `chunk` at a time: memory does not grow with the catalogue's frames."""
    device = model.null_id.device
    parts = [
        describe(model, gather, torch.arange(at, min(at + chunk, end), device=device))
        for at in range(start, end, chunk)
    ]
    if not parts:
        none = torch.zeros(0, model.settings.width, device=device)
        return Described(none, none, torch.zeros(0, model.settings.frames, device=device))
    return Described(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def preference(model: MealRec, gather: Gather, history: Tensor) -> Preference:
    """Denoised preference of viewers with histories [B, L] (left-padded with 0, L <= max_history), TCD in mode user+item.

    Cost: one denoiser run for each history position. A viewer without history gets the state zero."""
    mask = history > 0
    videos, rows = torch.unique(history[mask], return_inverse=True)
    content = gather(videos)
    scene = model.scene(content).rows(rows)
    content = content[rows]
    ids = model.id_vectors(history[mask], content.log_popularity)
    encoded = model.encode(scene, content, ids, model.conditions(model.users_before(history)[mask], ids))
    held = History(spread(encoded.z, mask), spread(encoded.described, mask), mask)
    return Preference(model.preferences(held)[:, -1], spread(encoded.salience, mask))
