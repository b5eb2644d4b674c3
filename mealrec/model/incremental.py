"""One viewer's history encoded item by item: a newly watched video costs one TCD run, whatever was watched before.

An item's vector depends on the items before it alone, so what was encoded stays as it is while the window grows. When the
window is full and moves on, its oldest item leaves what every other one was conditioned on, and it is encoded anew.

L history, D width, F frames, N videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mealrec.model.backbone import previous_state
from mealrec.model.inference import Gather, denoised
from mealrec.model.mealrec import History, MealRec


class Encoding(NamedTuple):
    """A window of item indices, oldest first, as its viewer sees it: z and described content [L, D], salience [L, F]; user [D]:
    the collaborative signal after the newest item, which candidates are conditioned on."""

    items: tuple[int, ...]
    z: Tensor
    described: Tensor
    salience: Tensor
    user: Tensor


@torch.no_grad()
def encode(model: MealRec, gather: Gather, plain: Tensor, items: Sequence[int], before: Encoding | None) -> Encoding:
    """The window `items` (at least one, at most max_history); before: what was encoded of this viewer earlier, of which the
    part that begins the window is kept. plain [N + 1, D]: the catalogue's plain vectors.

    Cost: one pass of the backbone and a denoiser run for each new item."""
    window = tuple(items)
    kept = _kept(window, before)
    if before is not None and kept == len(window):
        return before
    history = torch.tensor([window])
    mask = torch.ones_like(history, dtype=torch.bool)
    after = model.users_after(plain[history], mask)
    users = previous_state(after, mask, model.null_user)[0, kept:]
    videos, rows = torch.unique(history[0, kept:], return_inverse=True)
    content = gather(videos)
    ids = model.id_vectors(history[0, kept:], content.log_popularity[rows])
    seen, _ = model.encode_history(content, model.scene(content), rows, users, ids)
    parts = (seen.z, seen.described, seen.salience)
    if before is not None and kept:
        older = (before.z[:kept], before.described[:kept], before.salience[:kept])
        parts = tuple(torch.cat(pair) for pair in zip(older, parts, strict=True))  # type: ignore[assignment]
    return Encoding(window, *parts, user=after[0, -1])


@torch.no_grad()
def prefer(model: MealRec, held: Encoding, *, npd: bool = True) -> tuple[Tensor, Tensor]:
    """State [1, D] of an encoded viewer, and how far NPD moved what it works on [1]; without NPD the plain state and 0."""
    mask = torch.ones(1, len(held.items), dtype=torch.bool, device=held.z.device)
    history = History(held.z[None], held.described[None], mask)
    if npd:
        return denoised(model, history)
    return model.newest_states(history), held.z.new_zeros(1)


def _kept(window: tuple[int, ...], before: Encoding | None) -> int:
    if before is None or before.items != window[: len(before.items)]:
        return 0
    return len(before.items)
