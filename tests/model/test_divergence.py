"""The fused divergence equals torch's own, value and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mealrec.model import softmax
from mealrec.model.divergence import Ranking, divergence


@pytest.mark.parametrize("chunk", [1, 90, 1 << 21])
def test_value_and_gradients_are_those_of_torch(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CHUNK_BYTES", 4 * chunk)
    torch.manual_seed(0)
    wanted, vectors = torch.randn(7, 5, dtype=torch.double), torch.randn(31, 5, dtype=torch.double)
    states = torch.randn(7, 5, dtype=torch.double, requires_grad=True)
    table = torch.randn(31, 5, dtype=torch.double, requires_grad=True)
    plain = F.kl_div(
        F.log_softmax(states @ table[1:].T, -1),
        F.log_softmax(wanted @ vectors[1:].T, -1),
        log_target=True,
        reduction="sum",
    )
    expected = torch.autograd.grad(3 * plain, [states, table])
    found = divergence(Ranking(wanted, vectors), Ranking(states, table))
    torch.testing.assert_close(found, plain)
    for ours, theirs in zip(torch.autograd.grad(3 * found, [states, table]), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frozen_vectors_get_no_gradient_and_no_rows_give_zero() -> None:
    states, table = torch.randn(3, 4, requires_grad=True), torch.randn(9, 4)
    divergence(Ranking(torch.randn(3, 4), table), Ranking(states, table)).backward()
    assert states.grad is not None and table.grad is None
    nothing = Ranking(states[:0], table)
    assert float(divergence(nothing, nothing).detach()) == 0
    same = Ranking(states, table)
    assert float(divergence(same, same).detach()) == pytest.approx(0, abs=1e-6)
