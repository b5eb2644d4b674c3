"""Ranking metrics over the full catalogue: ranks, HR@K and NDCG@K. Imports torch alone.

One relevant item a viewer (leave-one-out): HR@K = share of viewers whose target is in the first K, NDCG@K = mean of
1 / log2(1 + rank) over those, 0 for the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def target_ranks(scores: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """1-based rank of each target among all items not seen: scores [B, N + 1], target [B], seen [B, L] (0 = padding).

    Ties are broken by item index, lower first. Raises ValueError for a NaN score or a target that was already seen."""
    if bool(torch.isnan(scores).any()):
        raise ValueError("scores hold NaN: the model diverged or its features are broken")
    if bool((seen == target[:, None]).any()):
        raise ValueError("a target is in its own history: the split leaks")
    masked = scores.clone()
    masked.scatter_(1, seen, -torch.inf)
    masked[:, 0] = -torch.inf
    own = masked.gather(1, target[:, None])
    index = torch.arange(scores.shape[1], device=scores.device)
    ahead = (masked > own) | ((masked == own) & (index < target[:, None]))
    return 1 + ahead.sum(1)


def hits(ranks: Tensor, k: int) -> Tensor:
    """1.0 where the target is among the first k, float64 [B]."""
    return (ranks <= k).double()


def gains(ranks: Tensor, k: int) -> Tensor:
    """1 / log2(1 + rank) where the target is among the first k, else 0, float64 [B]."""
    return hits(ranks, k) / torch.log2(1 + ranks.double())


def summarise(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """{"hr@k": ..., "ndcg@k": ...}: means over viewers; zeros when there are none."""
    viewers = max(len(ranks), 1)
    out: dict[str, float] = {}
    for k in ks:
        out[f"hr@{k}"] = float(hits(ranks, k).sum()) / viewers
        out[f"ndcg@{k}"] = float(gains(ranks, k).sum()) / viewers
    return out
