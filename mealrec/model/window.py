"""A viewer's whole window in one pass from item indices to vectors: what a compiler makes one native function of.

The same as `incremental.encode` without anything encoded before, followed by NPD, for any length up to max_history. L rows,
N videos, D width, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mealrec.model.backbone import previous_state
from mealrec.model.content import Content
from mealrec.model.incremental import Encoding
from mealrec.model.inference import denoised
from mealrec.model.mealrec import History, MealRec

FEWEST = 3  # rows: shapes of fewer are cases of their own to torch.export


class Tables(NamedTuple):
    """What a window's rows are read from, [N + 1, ...] each: the catalogue's plain vectors, the model's IDs and, as in Content,
    what is stored of the videos, in whatever precision it is stored."""

    plain: Tensor
    ids: Tensor
    visual: Tensor
    audio: Tensor
    text: Tensor
    position: Tensor
    frame_mask: Tensor
    available: Tensor
    log_popularity: Tensor


class Seen(NamedTuple):
    """z, described [L, D] and salience [L, F] of a window's rows; user [D], state [1, D] after NPD, unusual [1]."""

    z: Tensor
    described: Tensor
    salience: Tensor
    user: Tensor
    state: Tensor
    unusual: Tensor


Whole = Callable[[Tensor], Sequence[Tensor]]  # rows [L] of a window -> the parts of Seen


class WholeWindow(nn.Module):
    """rows [L] int64, oldest first, 0 for padding in front. Reads IDs from the tables, never from `model.ids`."""

    def __init__(self, model: MealRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor, *tables: Tensor) -> tuple[Tensor, ...]:
        """The parts of Seen; tables: those of Tables."""
        model, of, mask = self.model, Tables(*tables), rows > 0
        content = Content(
            of.visual[rows].float(),
            of.audio[rows].float(),
            of.text[rows].float(),
            of.position[rows],
            of.frame_mask[rows],
            of.available[rows],
            of.log_popularity[rows],
        )
        after = model.users_after(of.plain[rows][None], mask[None])
        users = previous_state(after, mask[None], model.null_user)[0]
        ids = model.trained_or_null(of.ids[rows], content.log_popularity)
        own = torch.arange(rows.shape[0], device=rows.device)
        seen, _ = model.encode_history(content, model.scene(content), own, users, ids)
        z, described = seen.z * mask[:, None], seen.described * mask[:, None]
        state, unusual = denoised(model, History(z[None], described[None], mask[None]))
        return z, described, seen.salience, after[0, -1], state, unusual


def rows_of(items: Sequence[int]) -> Tensor:
    """A window of item indices as WholeWindow takes it."""
    return torch.tensor([0] * (FEWEST - len(items)) + list(items))


def encoding_of(items: Sequence[int], seen: Seen) -> Encoding:
    """The window's encoding without its padding."""
    n = len(items)
    return Encoding(tuple(items), seen.z[-n:], seen.described[-n:], seen.salience[-n:], seen.user)
