"""Where the best videos for a preference state are looked up: exactly, or in an approximate index whose recall is known.

The approximate one (faiss, extra `index`) is for catalogues of millions, where reading every vector for every request costs
more than the answer is worth. It is measured against the exact search when it is built and refused below a bound.
"""

from __future__ import annotations

import logging
from typing import Protocol

import torch
from torch import Tensor

from mealrec.config import IndexConfig
from mealrec.model.top_k import best_of

log = logging.getLogger("mealrec.serve")

LINKS, EFFORT = 32, 128  # HNSW: neighbours a vector, candidates kept while building
RECALL_AT = 100


class Index(Protocol):
    """Search of a catalogue [N + 1, D] whose row 0 is padding."""

    def search(self, states: Tensor, k: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(scores, item indices) [B, k], best first, of states [B, D] without the items hidden [B, L] (0 fills up). Where
        fewer than k are left, the score is -inf."""
        ...


class Exact:
    """Every video is scored. Cost: B x N x D."""

    def __init__(self, catalogue: Tensor) -> None:
        self.catalogue = catalogue

    def search(self, states: Tensor, k: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return best_of(states, self.catalogue, k, hidden)


class Approximate:
    """An HNSW graph of inner products. Cost of a search: some effort x log N x D; memory: the vectors again and links."""

    def __init__(self, catalogue: Tensor, *, effort: int) -> None:
        """Raises ImportError without faiss. Cost: minutes for a million videos on one core."""
        import faiss

        self.graph = faiss.IndexHNSWFlat(catalogue.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        self.graph.hnsw.efConstruction = EFFORT
        self.graph.hnsw.efSearch = effort
        self.graph.add(catalogue[1:].numpy())
        self.effort = effort

    def search(self, states: Tensor, k: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        wanted = min(k + hidden.shape[1], self.graph.ntotal)
        self.graph.hnsw.efSearch = max(self.effort, wanted)  # it never finds more than it keeps
        scores, items = (torch.from_numpy(part) for part in self.graph.search(states.numpy(), wanted))
        items = items + 1  # rows of the graph begin with video 1; -1, nothing found, becomes 0
        gone = (items[:, :, None] == hidden[:, None, :]).any(2) | (items == 0)
        scores = scores.masked_fill(gone, -torch.inf)
        # equal scores by lower index, as everywhere
        by_item = torch.argsort(items, dim=1, stable=True)
        by_score = torch.argsort(scores.gather(1, by_item), dim=1, descending=True, stable=True)
        order = by_item.gather(1, by_score)[:, :k]
        return scores.gather(1, order), items.gather(1, order)


def recall(approximate: Index, exact: Index, states: Tensor, k: int) -> float:
    """Share of the exact search's best k that the approximate one finds, over these states."""
    nothing = torch.zeros(len(states), 1, dtype=torch.int64)
    found, true = (index.search(states, k, nothing)[1] for index in (approximate, exact))
    return float((found[:, :, None] == true[:, None, :]).any(1).double().mean())


def indexed(catalogue: Tensor, states: Tensor, config: IndexConfig) -> Index:
    """An approximate index, measured with these states. Where it finds too little it is refused with a warning, and the search
    stays exact."""
    exact = Exact(catalogue)
    made, k = Approximate(catalogue, effort=config.effort), min(RECALL_AT, len(catalogue) - 1)
    share = recall(made, exact, states, k)
    if share < config.min_recall:
        log.warning(
            "the approximate index is refused, the search is exact: it finds %.4f of the true best %d videos, index.min_recall "
            "is %g; a higher index.effort (%d) finds more",
            share,
            k,
            config.min_recall,
            config.effort,
        )
        return exact
    log.info("approximate index: %.4f of the true best %d videos over %d viewers", share, k, len(states))
    return made
