"""The k best of many scores, exactly and the same way every time; and of a catalogue for many preference states.

B viewers, N videos, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mealrec.model.precision import exact_products

SCORES_AT_ONCE = 1 << 19  # 2 MiB of float32 a core: they are read again while they are still in its cache
LARGEST_GROUP = 16  # above that the maxima are too few for torch.topk's quick path (measured: benchmarks/LOG.md)
FEWEST_ROWS = 16  # below that a matrix product reads the catalogue more often than it computes


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) [B, min(k, N)] of the k best of each row of scores [B, N], best first, equal ones by lower index.

    What a stable sort gives, for less than torch.topk, which leaves open which of equal scores it takes: one more than k is
    selected, and only rows with two equal values among these are selected again by index. Cost: one pass over B x N, then
    2 sqrt(N k) to N / LARGEST_GROUP a row. Scores are not NaN."""
    width = scores.shape[1]
    k = min(k, width)
    if k == 0:
        return scores[:, :0], torch.zeros(len(scores), 0, dtype=torch.int64, device=scores.device)
    values, indices = _select(scores, min(k + 1, width))
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    values, indices = values[:, :k], indices[:, :k]
    if bool(tied.any()):
        values[tied], indices[tied] = _by_index(scores[tied], k)
    return values, indices


@torch.no_grad()
def best_of(
    states: Tensor, catalogue: Tensor, k: int, hidden: Tensor | None = None, *, padding: bool = True
) -> tuple[Tensor, Tensor]:
    """`top_k` of the scores <state, vector> of states [B, D] over catalogue [N, D]; hidden [B, L]: rows of the catalogue that a
    viewer is not shown (score -inf; 0 may fill up). padding: row 0 of the catalogue is no video and shown to nobody.

    Exact. Cost: B x N x D. Memory: SCORES_AT_ONCE scores, or those of FEWEST_ROWS viewers where the catalogue is larger."""
    rows = rows_at_once(len(catalogue))
    scores = states.new_empty(min(rows, len(states)), len(catalogue))
    found = []
    for at in range(0, len(states), rows):
        part = states[at : at + rows]
        with exact_products(states.device):
            block = torch.mm(part, catalogue.T, out=scores[: len(part)])
        if hidden is not None:
            block.scatter_(1, hidden[at : at + rows], -torch.inf)
        if padding:
            block[:, 0] = -torch.inf
        found.append(top_k(block, k))
    if not found:
        k = min(k, len(catalogue))
        return states.new_zeros(0, k), torch.zeros(0, k, dtype=torch.int64, device=states.device)
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def rows_at_once(videos: int) -> int:
    """How many viewers' scores are held together."""
    return max(SCORES_AT_ONCE * torch.get_num_threads() // max(videos, 1), FEWEST_ROWS)


def _select(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """torch.topk, sorted, in fewer operations: the k best are in the k groups with the greatest maxima. Which of equal values
    are taken is open."""
    b, width = scores.shape
    size = 1 << round(math.log2(max(width / k, 1)) / 2)  # so that groups and candidates are about as many
    size = min(size, LARGEST_GROUP)
    if size < 4:
        return torch.topk(scores, k, dim=1)
    groups = width // size
    # group g holds the columns g, g + groups, ...: a maximum over whole rows of memory
    best = scores[:, : groups * size].view(b, size, groups).amax(1).topk(k, dim=1, sorted=False).indices
    member = torch.arange(size, device=scores.device)[:, None] * groups
    candidates = (best[:, None] + member).flatten(1)
    rest = torch.arange(groups * size, width, device=scores.device)
    candidates = torch.cat([candidates, rest.expand(b, -1)], 1)
    values, at = scores.gather(1, candidates).topk(k, dim=1)
    return values, candidates.gather(1, at)


def _by_index(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same with equal scores by lower index. Cost: a few passes over the rows."""
    last = torch.topk(scores, k, dim=1, sorted=True).values[:, -1:]
    above, equal = scores > last, scores == last
    taken = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    indices = taken.nonzero()[:, 1].view(len(scores), k)
    order = torch.sort(scores.gather(1, indices), dim=1, descending=True, stable=True)
    return order.values, indices.gather(1, order.indices)
