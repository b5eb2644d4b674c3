"""Kullback-Leibler divergence between two rankings of a catalogue, with its gradients made in the forward pass.

As the full softmax of `softmax.py`: the scores of a few rows at a time are made, used and overwritten, so positions x catalogue
is never held, and the gradient with respect to the scores, q - p, is turned into those of states and vectors at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mealrec.model.sizes import over_zeros
from mealrec.model.softmax import chunk_rows


class Ranking(NamedTuple):
    """Preferences as softmax(states @ vectors[1:].T): states [m, D], already divided by the temperature, vectors [C, D]."""

    states: Tensor
    vectors: Tensor


def divergence(wanted: Ranking, found: Ranking) -> Tensor:
    """Sum over rows of KL(wanted || found). Gradients reach `found` alone. Cost: four products of m x C x D; memory:
    that of a chunk of scores. 0 for no rows."""
    if len(found.states) == 0:
        return found.states.sum() * 0 + found.vectors.sum() * 0
    # rows of zeros rank alike in both, and add nothing
    states = over_zeros(wanted.states), over_zeros(found.states)
    out: Tensor = _Divergence.apply(states[0], wanted.vectors, states[1], found.vectors)  # type: ignore[no-untyped-call]
    return out


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wanted_states: Tensor, wanted: Tensor, states: Tensor, vectors: Tensor) -> Tensor:
        of_states, of_vectors = ctx.needs_input_grad[2:]
        grad_states = torch.empty_like(states) if of_states else None
        grad_vectors = torch.zeros_like(vectors) if of_vectors else None
        total = states.new_zeros(())
        width = len(vectors) - 1
        rows = chunk_rows(3 * width, states.device, states.dtype)  # of three blocks
        blocks = states.new_empty(3, min(rows, len(states)), width)
        for at in range(0, len(states), rows):
            here = slice(at, at + rows)
            own, q, p = blocks[:, : len(states[here])]
            torch.mm(wanted_states[here], wanted[1:].T, out=own)
            torch.mm(states[here], vectors[1:].T, out=q)
            torch.log_softmax(own, 1, out=own)
            torch.log_softmax(q, 1, out=q)
            torch.exp(own, out=p)
            total += torch.dot(p.reshape(-1), own.sub_(q).reshape(-1))
            q.exp_().sub_(p)
            if grad_states is not None:
                torch.mm(q, vectors[1:], out=grad_states[here])
            if grad_vectors is not None:
                grad_vectors[1:].addmm_(q.T, states[here])
        ctx.save_for_backward(grad_states, grad_vectors)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor | None, Tensor | None]:
        grad_states, grad_vectors = ctx.saved_tensors
        return (
            None,
            None,
            None if grad_states is None else grad * grad_states,
            None if grad_vectors is None else grad * grad_vectors,
        )
