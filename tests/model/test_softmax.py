"""The next-item loss: chunks add up, samples are corrected for how they were drawn, memory stays bounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mealrec.model import precision, softmax
from mealrec.model.softmax import Negatives, full_loss, next_item_loss, sampled_loss


def case(rows: int = 13, items: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    states = torch.randn(rows, 8, generator=rng, requires_grad=True)
    table = torch.randn(items + 1, 8, generator=rng, requires_grad=True)
    return states, table, torch.randint(1, items + 1, (rows,), generator=rng)


def test_chunks_give_the_loss_and_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    states, table, target = case()
    whole = F.cross_entropy(states @ table[1:].T / 0.5, target - 1, reduction="sum")
    wanted = torch.autograd.grad(whole, (states, table))
    monkeypatch.setattr(softmax, "CHUNK_BYTES", 4 * 3 * 40)  # three rows at a time
    chunked = full_loss(states, table, target, 0.5)
    assert torch.allclose(chunked, whole, rtol=1e-6)
    for one, other in zip(torch.autograd.grad(chunked, (states, table)), wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_gradients_of_float64_are_float64s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "CHUNK_BYTES", 8 * 3 * 40)
    states, table, target = case()
    given = states.detach().double().requires_grad_(), table.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: full_loss(s, t, target), given)


def test_no_chunk_holds_more_scores_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(
        states: torch.Tensor,
        candidates: torch.Tensor,
        end: int,
        target: torch.Tensor,
        scores: torch.Tensor,
        *grads: Any,
    ) -> torch.Tensor:
        seen.append((scores.numel(), len(target) * (end - 1)))
        return plain(states, candidates, end, target, scores, *grads)

    plain = softmax._chunk
    monkeypatch.setattr(softmax, "CHUNK_BYTES", 4 * 200)
    monkeypatch.setattr(softmax, "_chunk", spy)
    full_loss(*case())
    assert max(held for held, _ in seen) <= 200 and sum(used for _, used in seen) == 13 * 40


def test_scores_in_bfloat16_give_the_loss_and_gradients_up_to_their_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(softmax, "CHUNK_BYTES", 2 * 64 * 300)  # as many rows of 300 scores of two bytes
    states, table, target = case(rows=256, items=300)
    whole = full_loss(states, table, target)
    wanted = torch.autograd.grad(whole, (states, table))
    with precision.matmul("medium"):
        rounded = full_loss(states, table, target)
    found = torch.autograd.grad(rounded, (states, table))
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, whole)  # they are in bfloat16
    assert torch.allclose(rounded, whole, rtol=1e-3)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32 and float((one - other).norm() / other.norm()) < 0.02
    assert float((found[1].sum(0) - wanted[1].sum(0)).norm() / wanted[1].norm()) < 0.02  # errors do not add up


def test_neither_the_padding_nor_what_fills_a_row_up_is_a_candidate() -> None:
    states, table, target = case(items=37)  # not a multiple of what rows are filled up to
    with torch.no_grad():
        table[0] = torch.nan
    whole = F.cross_entropy(states @ table[1:].T, target - 1, reduction="sum")
    found = full_loss(states, table, target)
    assert torch.allclose(found, whole, rtol=1e-6)
    of_states, of_table = torch.autograd.grad(found, (states, table))
    assert (
        of_table.shape == table.shape and torch.equal(of_table[0], torch.zeros(8)) and bool(of_states.isfinite().all())
    )


def test_a_loss_counts_with_the_weight_it_is_given_and_a_frozen_side_costs_no_gradient() -> None:
    states, table, target = case()
    (whole,) = torch.autograd.grad(3.0 * full_loss(states, table.detach(), target, 0.5), (states,))
    (once,) = torch.autograd.grad(full_loss(states, table, target, 0.5), (states,))
    assert torch.allclose(whole, 3.0 * once, rtol=1e-5)
    with torch.no_grad():
        assert not full_loss(states, table, target).requires_grad


def test_scores_far_apart_give_a_finite_loss_and_the_right_gradient() -> None:
    states, table = torch.tensor([[200.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = full_loss(states, table, torch.tensor([2]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert 80 < float(loss) < 200 and states.grad is not None
    assert torch.allclose(states.grad, torch.tensor([[1.0, -1.0]]))


def test_a_corrected_sample_estimates_the_full_softmax() -> None:
    states, table, target = case(rows=200)
    with torch.no_grad():
        states.mul_(0.3)
    counts = torch.arange(41) ** 2  # very uneven popularity
    negatives = Negatives.by_popularity(counts, 4000)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        full = float(next_item_loss(states, table, target)) / 200
        sampled = float(next_item_loss(states, table, target, negatives=negatives, generator=rng)) / 200
        drawn = negatives.draw(rng)
        uncorrected = float(sampled_loss(states, table, target, drawn, torch.zeros(41))) / 200
    # the target stands beside the sample with the weight of one expected draw, so the two agree up to a constant
    expected = (negatives.probability[target] * negatives.count).log().mean()
    assert abs((sampled - float(expected)) - full) < 0.25 or abs(sampled - full) < 0.25
    assert abs(uncorrected - full) > 1.0


def test_padding_is_never_drawn_and_unwatched_videos_are() -> None:
    negatives = Negatives.by_popularity(torch.tensor([0, 100, 0, 0]), 5000)
    drawn = negatives.draw(torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2, 3}


def test_a_drawn_target_is_not_its_own_rival() -> None:
    states, table = torch.ones(1, 2), torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    expected = torch.zeros(3)
    loss = sampled_loss(states, table, torch.tensor([1]), torch.tensor([1, 1, 1, 2]), expected)
    assert float(loss) < 0.01


def test_no_rows_cost_nothing_and_keep_the_graph() -> None:
    states, table, _ = case()
    none = torch.zeros(0, dtype=torch.int64)
    loss = full_loss(states[:0], table, none)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss) == 0.0 and table.grad is not None
    with pytest.raises(ValueError, match="need a generator"):
        next_item_loss(states, table, none, negatives=Negatives.by_popularity(torch.ones(41), 3))
