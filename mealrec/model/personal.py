"""Candidates as one viewer sees them: their cached item-mode tokens weighed anew (model.md 4), without a denoiser run.

n candidates, F frames, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mealrec.model.content import TEXT
from mealrec.model.mealrec import MealRec


class Candidates(NamedTuple):
    """items [n], their places in the catalogue; refined tokens and their keys [n, F, D], redundancy and mask [n, F], as
    cached; text [n, d_t], available [n, 3], log_popularity [n]."""

    items: Tensor
    refined: Tensor
    key: Tensor
    redundancy: Tensor
    mask: Tensor
    text: Tensor
    available: Tensor
    log_popularity: Tensor


@torch.no_grad()
def personal_vectors(model: MealRec, user: Tensor, found: Candidates) -> Tensor:
    """Vectors [n, D] of candidates for a viewer whose collaborative signal is user [D]. Cost: F x D a candidate to weigh its
    tokens, and the content MLP."""
    ids = model.id_vectors(found.items, found.log_popularity)
    condition = model.conditions(user.expand(len(ids), -1), ids)
    pooled, _ = model.salience.weigh(found.key, found.refined, found.redundancy, found.mask, condition)
    described = model.fusion.describe(pooled, found.text, found.mask.any(1), found.available[:, TEXT])
    out: Tensor = model.fusion(ids, described, found.available, found.log_popularity)
    return out
