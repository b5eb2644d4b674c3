"""The diffusion's closed forms."""

from __future__ import annotations

import pytest
import torch

from mealrec.model import schedule
from mealrec.model.baselines.dreamrec import visited_steps


@pytest.mark.parametrize("steps", [4, 32, 1000])
def test_alpha_bar_falls_from_one_and_stays_above_zero(steps: int) -> None:
    alpha_bar = schedule.cosine_alpha_bar(steps)
    assert alpha_bar.dtype == torch.float64 and len(alpha_bar) == steps + 1
    assert float(alpha_bar[0]) == 1.0
    assert bool((alpha_bar.diff() < 0).all())
    assert float(alpha_bar[-1]) > 0


@pytest.mark.parametrize("t", [1, 7, 32])
def test_the_clean_value_comes_back_when_the_noise_is_known(t: int) -> None:
    alpha_bar = schedule.cosine_alpha_bar(32)[t]
    x, noise = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    y = schedule.diffuse(x, noise, alpha_bar)
    assert torch.allclose(schedule.clean_from_noise(y, noise, alpha_bar), x, atol=1e-6)


def test_a_ddim_step_with_the_true_clean_value_lands_on_the_same_path() -> None:
    alpha_bar = schedule.cosine_alpha_bar(32)
    x, noise = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    y = schedule.diffuse(x, noise, alpha_bar[20])
    assert torch.allclose(
        schedule.ddim_step(y, x, alpha_bar[20], alpha_bar[5]), schedule.diffuse(x, noise, alpha_bar[5])
    )
    assert torch.allclose(schedule.ddim_step(y, x, alpha_bar[20], alpha_bar[0]), x)


def test_the_weight_of_a_step_is_capped_and_between_zero_and_one() -> None:
    weights = schedule.snr_weight(schedule.cosine_alpha_bar(32)[1:])
    assert float(weights.max()) == 1.0
    assert bool((weights > 0).all())


@pytest.mark.parametrize(("steps", "count", "visits"), [(32, 1, [4]), (32, 4, [4, 3, 2, 1]), (4, 1, [1])])
def test_refinement_starts_at_an_eighth_of_the_steps(steps: int, count: int, visits: list[int]) -> None:
    assert schedule.refinement_steps(schedule.refinement_start(steps), count) == visits


def test_visited_steps_go_from_the_last_to_the_clean_end() -> None:
    assert visited_steps(32, 4) == [32, 24, 16, 8, 0]
    assert visited_steps(5, 5) == [5, 4, 3, 2, 1, 0]
    assert visited_steps(32, 1) == [32, 0]
