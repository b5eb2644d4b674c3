"""ItemKNN: videos watched by the same viewers, the viewer's newer ones counting more."""

from __future__ import annotations

import torch
from torch import Tensor


class ItemKNN:
    """Scores j by the summed cosine of co-watching with the history's items (Deshpande and Karypis 2004), popularity below one
    smallest similarity as the tie-break. Differs from the paper: similarities are shrunk for rare pairs (`shrink`), only the
    `neighbours` best of each item are kept, and an item `a` places before the newest counts `decay`^a.

    sequence [I] item indices of all viewers one after another, first [I] bool marks a viewer's first item, counts [N + 1].
    Cost: viewers x length^2 pairs, counted in sparse form; N x neighbours similarities are kept, never N x N."""

    def __init__(
        self,
        sequence: Tensor,
        first: Tensor,
        counts: Tensor,
        *,
        neighbours: int = 100,
        shrink: float = 5.0,
        decay: float = 0.9,
    ) -> None:
        n = len(counts)
        self.decay = decay
        viewer = first.long().cumsum(0) - 1
        pairs, count = _pairs(sequence, viewer, n)
        source, target = pairs // n, pairs % n
        norm = counts.double().clamp(min=1).sqrt()
        similarity = count.double() / (norm[source] * norm[target]) * (count / (count + shrink))
        kept, place = _best(source, similarity, neighbours)
        self.neighbour = torch.zeros(n, neighbours, dtype=torch.int64)
        self.similarity = torch.zeros(n, neighbours, dtype=torch.float64)
        self.neighbour[source[kept], place] = target[kept]
        self.similarity[source[kept], place] = similarity[kept]
        self.prior = counts.double() / counts.sum().clamp(min=1) * 1e-6

    def scores(self, history: Tensor) -> Tensor:
        """history [B, L], left-padded -> [B, N + 1]."""
        rows, length = history.shape
        weight = self.decay ** torch.arange(length - 1, -1, -1, dtype=torch.float64)
        votes = self.similarity[history] * weight[None, :, None]
        out = self.prior.repeat(rows, 1)
        return out.scatter_add_(1, self.neighbour[history].view(rows, -1), votes.view(rows, -1))


def _pairs(sequence: Tensor, viewer: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Ordered pairs (i * n + j, i != j) of items that one viewer watched, and by how many viewers. One pass a distance between
    the two places, so memory is that of the log; the number of passes is the longest history."""
    found: dict[str, list[Tensor]] = {"pair": [], "count": []}
    for distance in range(1, len(sequence)):
        same = viewer[distance:] == viewer[:-distance]
        if not bool(same.any()):
            break
        a, b = sequence[:-distance][same], sequence[distance:][same]
        pair, count = torch.unique(torch.cat([a * n + b, b * n + a]), return_counts=True)
        found["pair"].append(pair)
        found["count"].append(count)
    if not found["pair"]:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    pair, place = torch.unique(torch.cat(found["pair"]), return_inverse=True)
    total = torch.zeros(len(pair), dtype=torch.int64).scatter_add_(0, place, torch.cat(found["count"]))
    return pair, total


def _best(source: Tensor, similarity: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Rows of the `neighbours` most similar targets of each source, and their places 0, 1, ... within the source."""
    order = torch.argsort(similarity, descending=True, stable=True)
    order = order[torch.argsort(source[order], stable=True)]
    ordered = source[order]
    place = torch.arange(len(order)) - torch.searchsorted(ordered, ordered)
    return order[place < neighbours], place[place < neighbours]
