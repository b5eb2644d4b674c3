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


def test_a_sample_that_has_every_video_in_it_is_the_full_softmax() -> None:
    states, table, target = case()
    negatives = Negatives.by_popularity(torch.arange(41) ** 2, 100_000)
    sampled = next_item_loss(states, table, target, negatives=negatives, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(sampled, full_loss(states, table, target), rtol=1e-5)


# one context; the first video is its next one half of the time and is drawn some fifteen times a step
OFTEN = torch.tensor([60, *(2 for _ in range(30))])
DRAWS = 50


def one_context(counts: torch.Tensor) -> tuple[torch.Tensor, Negatives, torch.Tensor, torch.Generator]:
    """Targets, each as often as counted; how candidates are drawn; what every target's probability is."""
    target = torch.repeat_interleave(torch.arange(1, len(counts) + 1), counts)
    negatives = Negatives.by_popularity(torch.cat([torch.zeros(1), 100 * counts]), DRAWS)
    return target, negatives, counts / counts.sum(), torch.Generator().manual_seed(2)


def test_the_gradient_of_a_sample_is_zero_at_the_true_probabilities_even_of_a_video_that_is_drawn_many_times() -> None:
    target, negatives, true, rng = one_context(OFTEN)
    assert float(negatives.probability[1] * DRAWS) > 10 and float(true[0]) == 0.5
    table = torch.cat([torch.zeros(1), true.log()])[:, None].requires_grad_()
    states, total = torch.ones(len(target), 1), torch.zeros(len(table), 1)
    for _ in range(200):
        loss = next_item_loss(states, table, target, negatives=negatives, generator=rng) / len(target)
        total += torch.autograd.grad(loss, table)[0] / 200
    assert float(total.abs().max()) < 0.01  # 0.4 at the first video with the log of the expected count


def test_a_video_that_is_drawn_many_times_is_learned_with_its_true_probability() -> None:
    target, negatives, true, rng = one_context(OFTEN)
    table = torch.zeros(len(true) + 1, 1, requires_grad=True)
    states = torch.ones(len(target), 1)
    optimiser = torch.optim.Adam([table], lr=0.1)
    for step in range(250):
        optimiser.param_groups[0]["lr"] = 0.1 * 0.98**step
        optimiser.zero_grad()
        loss = next_item_loss(states, table, target, negatives=negatives, generator=rng) / len(target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    found = table.detach()[1:, 0].softmax(0)
    assert float(found[0]) == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(found, true, atol=0.02)


def test_which_candidate_is_the_target_is_told_from_how_seldom_each_is_drawn() -> None:
    """Bayes: of a target and a candidate that are equally probable, the one more seldom in samples is rather the target."""
    probability, included = torch.tensor([0.2, 0.2]), torch.tensor([0.9, 0.1])
    table = torch.cat([torch.zeros(1), probability.log()])[:, None]
    target, drawn, logs = torch.tensor([1]), torch.tensor([2]), torch.cat([torch.zeros(1), included.log()])
    loss = sampled_loss(torch.ones(1, 1), table, target, drawn, logs)
    weight = probability / included
    assert float(loss) == pytest.approx(-float((weight[0] / weight.sum()).log()))


def test_rare_videos_behind_many_popular_ones_are_drawn_as_often_as_they_should_be() -> None:
    counts = torch.cat([torch.zeros(1), torch.full((39,), 1e6), torch.zeros(1_000_000)])
    # 39M of weight, then a million videos of weight 1
    negatives = Negatives.by_popularity(counts, 2_000_000, power=1.0)
    drawn = negatives.draw(torch.Generator().manual_seed(0))
    wanted = negatives.log_inclusion(torch.arange(40, len(counts))).double().exp().sum()
    assert float((drawn >= 40).sum()) == pytest.approx(float(wanted), rel=0.05)
    assert float(wanted) > 40_000


def test_padding_is_never_drawn_and_unwatched_videos_are() -> None:
    negatives = Negatives.by_popularity(torch.tensor([0, 100, 0, 0]), 5000)
    drawn = negatives.draw(torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2, 3}


def test_a_drawn_target_is_not_its_own_rival() -> None:
    states, table = torch.ones(1, 2), torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    loss = sampled_loss(states, table, torch.tensor([1]), torch.tensor([1, 2]), torch.zeros(3))
    assert float(loss) < 0.01


def test_no_rows_cost_nothing_and_keep_the_graph() -> None:
    states, table, _ = case()
    none = torch.zeros(0, dtype=torch.int64)
    loss = full_loss(states[:0], table, none)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss) == 0.0 and table.grad is not None
    with pytest.raises(ValueError, match="need a generator"):
        next_item_loss(states, table, none, negatives=Negatives.by_popularity(torch.ones(41), 3))
