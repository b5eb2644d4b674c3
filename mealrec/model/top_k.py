"""The k best of many scores, exactly and the same way every time."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) [B, min(k, N)] of the k best of each row of scores [B, N], best first, equal ones by lower index.

    What a stable sort gives, at about the price of torch.topk, which leaves open which of equal scores it takes: only the
    rows where the k-th score is shared with one that was left out are sorted whole. Cost: B x N for the selection."""
    k = min(k, scores.shape[1])
    values, indices = torch.topk(scores, k, dim=1)
    by_index = torch.sort(indices, dim=1)
    values = values.gather(1, by_index.indices)
    by_value = torch.sort(values, dim=1, descending=True, stable=True)
    values, indices = by_value.values, by_index.values.gather(1, by_value.indices)
    last = values[:, -1:]
    shared = (scores == last).sum(1) > (values == last).sum(1)
    if bool(shared.any()):
        whole = torch.sort(scores[shared], dim=1, descending=True, stable=True)
        values[shared], indices[shared] = whole.values[:, :k], whole.indices[:, :k]
    return values, indices
