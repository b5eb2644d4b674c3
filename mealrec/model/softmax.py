"""Next-item cross-entropy over catalogues of any size, without ever holding positions x catalogue in memory.

Full softmax up to about 100,000 videos: the scores of a few rows at a time are made, give their loss and their gradients, and
are overwritten by the next rows' (the gradient of a sum needs no second pass over the scores). Above that: a sample of
negatives shared by the step, drawn by popularity and corrected for it (below). Both return sums, so that workers' losses add
up. Under "medium" precision a CPU that multiplies bfloat16 holds the scores of the full softmax in it: each is then off by up
to 1/256 of itself, at random, and a step's gradient by some hundredth.

The correction (logQ; Bengio and Senecal 2008, Yi et al. 2019). A row's candidates are its target and the videos of the sample.
Where every video j is in the sample with probability pi_j by itself, a target y and the candidates C are met with a probability
proportional to P(y) / pi_y, and which of C is the target is guessed best by scores s_j - log pi_j with s_j = log P(j): the loss
has its minimum where the full softmax has it. Two things differ from the papers, who subtract the log of how often a video is
expected in the sample, for targets alike: that is log pi_j where it is far below 1, and above 0 for a video so popular that it
is drawn several times, whose score would have to make up for it (a video of P = .5 was learned as .8). So a video counts once
however often it is drawn, and its correction is the log of a probability. Draws are not quite by themselves, as their number
is fixed: what is left is below a hundredth of P for a sample of some dozens, and falls with its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mealrec.model.precision import score_dtype
from mealrec.model.sizes import ROWS, over_zeros

CHUNK_BYTES = 16 << 20  # of scores held at a time on a CPU, which stay in its cache
CHUNK_BYTES_GPU = 1 << 29
ALIGNED = 16  # a row of scores is a multiple of: products into rows that begin anywhere take longer (benchmarks/LOG.md)
FULL_SOFTMAX_UP_TO = 100_000


@dataclass(frozen=True)
class Negatives:
    """How candidates are drawn: probability [N + 1] float64 of one draw (row 0 is padding and never drawn), count draws a step.

    Training counts are raised to `power` after one is added, so that videos never watched are drawn as well. In float64: in
    float32 the running sum that a draw is looked up in stands still where a rare video comes after many popular ones."""

    probability: Tensor
    count: int

    @classmethod
    def by_popularity(cls, counts: Tensor, count: int, *, power: float = 0.75) -> Negatives:
        weight = (counts.double() + 1).pow(power)
        weight[0] = 0
        return cls(weight / weight.sum(), count)

    def draw(self, generator: torch.Generator) -> Tensor:
        """The distinct items, sorted, of `count` draws with replacement."""
        drawn = torch.multinomial(self.probability, self.count, replacement=True, generator=generator)
        distinct: Tensor = torch.unique(drawn)
        return distinct

    def log_inclusion(self, items: Tensor) -> Tensor:
        """Log of the probability that a sample has these items in it, float32; very low, and finite, for the padding."""
        missed = self.count * torch.log1p(-self.probability[items])
        included: Tensor = -torch.expm1(missed)
        return included.clamp(min=1e-30).log().float()


def next_item_loss(
    states: Tensor,
    table: Tensor,
    target: Tensor,
    *,
    negatives: Negatives | None = None,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Summed cross-entropy of targets [m] for states [m, D] against the catalogue's vectors table [N + 1, D] (row 0 padding,
    never a candidate). negatives None: the whole catalogue."""
    if negatives is None:
        return full_loss(states, table, target, temperature)
    if generator is None:
        raise ValueError("sampled candidates need a generator")
    included = negatives.log_inclusion(torch.arange(len(table), device=table.device))
    return sampled_loss(states, table, target, negatives.draw(generator), included, temperature)


def full_loss(states: Tensor, table: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """Softmax over every row of table [N + 1, D] but row 0. Cost: three products of m x N x D, and none in the backward pass;
    memory: CHUNK_BYTES, or the scores of one row where the catalogue alone is larger, and a gradient as large as table. 0
    for no rows. A probability below float32's smallest counts as that (a loss of 87); gradients are as exact as the scores
    (`score_dtype`)."""
    if len(target) == 0:
        return states.sum() * 0 + table.sum() * 0
    loss: Tensor = _FullSoftmax.apply(states / temperature, table, target)  # type: ignore[no-untyped-call]
    return loss


def sampled_loss(
    states: Tensor, table: Tensor, target: Tensor, drawn: Tensor, included: Tensor, temperature: float = 1.0
) -> Tensor:
    """Each row's own target against the step's sample: target [m] and drawn [n] are rows of table [C, D], drawn distinct,
    included [C] the log of the probability that a row is in the sample. A drawn candidate that is a row's target does not count
    twice.

    Cost and memory: m x n. 0 for no rows."""
    if len(target) == 0:
        return states.sum() * 0 + table.sum() * 0
    scores = states @ table[drawn].T / temperature - included[drawn]
    scores = scores.masked_fill(drawn[None, :] == target[:, None], -torch.inf)
    own = (states * table[target]).sum(-1, keepdim=True) / temperature - included[target][:, None]
    return F.cross_entropy(torch.cat([own, scores], 1), torch.zeros_like(target), reduction="sum")


class _FullSoftmax(torch.autograd.Function):
    """Summed cross-entropy of target [m] for states [m, D] against table[1:], whose gradients are made together with it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, target: Tensor) -> Tensor:
        of_states, of_table = ctx.needs_input_grad[:2]
        loss = states.new_zeros(())
        dtype = score_dtype(states)
        queries, candidates = over_zeros(states.to(dtype), ROWS), _aligned(table, dtype)
        grad_queries = states.new_zeros(queries.shape) if of_states else None
        grad_table = torch.zeros_like(candidates, dtype=table.dtype) if of_table else None
        rows = chunk_rows(len(candidates), states.device, dtype)
        scores = states.new_empty(min(rows, len(queries)), len(candidates), dtype=dtype)
        for at in range(0, len(target), rows):
            here = slice(at, at + rows)
            loss += _chunk(
                queries[here],
                candidates,
                len(table),
                target[here],
                scores,
                None if grad_queries is None else grad_queries[here],
                grad_table,
            )
        grad_states = None if grad_queries is None else grad_queries[: len(states)].sub_(table[target])
        if grad_table is not None:
            grad_table = grad_table[: len(table)].index_add_(0, target, states, alpha=-1)
        ctx.save_for_backward(grad_states, grad_table)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_states, grad_table = ctx.saved_tensors
        return (
            None if grad_states is None else grad * grad_states,
            None if grad_table is None else grad * grad_table,
            None,
        )


def chunk_rows(items: int, device: torch.device, dtype: torch.dtype) -> int:
    """Rows whose scores against `items` candidates are held at a time."""
    held = CHUNK_BYTES if device.type == "cpu" else CHUNK_BYTES_GPU
    rows = held // dtype.itemsize // max(items, 1)
    return rows - rows % 32 if rows > 32 else max(rows, 1)


def aligned(scores: int) -> int:
    """How long a row of so many scores is made, so that the next one begins where products are quick."""
    return -(-scores // ALIGNED) * ALIGNED


def _aligned(table: Tensor, dtype: torch.dtype) -> Tensor:
    """table [N + 1, D] as candidates [C, D], C a multiple of ALIGNED: zeros for the padding and after the last video."""
    out = table.new_zeros(aligned(len(table)), table.shape[1], dtype=dtype)
    out[1 : len(table)] = table[1:]
    return out


def _chunk(
    states: Tensor,
    candidates: Tensor,
    end: int,
    target: Tensor,
    scores: Tensor,
    grad_states: Tensor | None,
    grad_candidates: Tensor | None,
) -> Tensor:
    """Loss of some rows against candidates [C, D], of which 1 to end - 1 are videos; `scores` is their workspace [m, C], of the
    same dtype as states [m, D] and candidates; states below those of target [n] are zeros and nobody's. Adds the expected
    candidate to grad_states and the rows' part to grad_candidates, which may be of a higher precision; what the targets
    themselves subtract is left to the caller."""
    scores = scores[: len(states)]
    torch.mm(states, candidates.T, out=scores)
    scores[:, 0] = scores[:, end:] = -torch.inf
    torch.softmax(scores, 1, out=scores)
    own = scores[: len(target)].gather(1, target[:, None]).to(torch.promote_types(scores.dtype, torch.float32))
    if grad_states is not None:
        _add_product(grad_states, scores, candidates)
    if grad_candidates is not None:
        _add_product(grad_candidates, scores.T, states)
    return -own.clamp(min=torch.finfo(own.dtype).tiny).log().sum()


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where both may be of a lower precision than the total."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
