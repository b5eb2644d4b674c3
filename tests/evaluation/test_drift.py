"""What counts as moved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mealrec.config_operations import Bounds, DriftConfig
from mealrec.evaluation.drift import binned, classes, duration, psi, share, values, worst

CONFIG = DriftConfig()


def test_psi_is_the_sum_over_classes() -> None:
    p, q = [60.5 / 101, 40.5 / 101], [30.5 / 101, 70.5 / 101]
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi(np.array([60, 40]), np.array([30, 70])) == pytest.approx(by_hand)
    assert psi(np.array([60, 40]), np.array([60, 40])) == 0


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
    st.lists(st.integers(0, 9), min_size=1, max_size=60),
)
def test_whatever_is_compared_gives_finite_figures_in_range(a: list[int], b: list[int]) -> None:
    one, two = classes("g", "n", a, b, CONFIG), values("g", "n", np.array(a, float), np.array(b, float), CONFIG)
    assert one is not None and math.isfinite(one.value) and one.value >= 0
    assert two is None or 0 <= two.value <= 1


def test_ks_is_the_largest_distance_of_the_two_distributions() -> None:
    a, b = np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])
    grid = np.concatenate([a, b])
    by_hand = max(abs((a <= x).mean() - (b <= x).mean()) for x in grid)
    found = values("g", "n", a, b, CONFIG)
    assert found is not None and found.value == pytest.approx(by_hand) and found.moved == "median 2.5 -> 4.5"


def test_the_same_move_is_an_alarm_in_many_rows_and_chance_in_few() -> None:
    few = classes("g", "n", ["a"] * 6 + ["b"] * 4, ["a"] * 2 + ["b"] * 8, CONFIG)
    many = classes("g", "n", ["a"] * 600 + ["b"] * 400, ["a"] * 200 + ["b"] * 800, CONFIG)
    assert few is not None and few.state == "ok" and few.value > CONFIG.psi.alarm
    assert many is not None and many.state == "alarm" and many.moved == "b: 40.0% -> 80.0%"
    assert worst([few, many]) == "alarm" and worst([few]) == "ok"


def test_two_samples_of_one_source_stay_within_chance() -> None:
    rng = np.random.default_rng(0)
    exceeded = 0
    for _ in range(200):
        a, b = rng.normal(size=80), rng.normal(size=120)
        number, bins = values("g", "n", a, b, CONFIG), binned("g", "n", a, b, (-9, -1, 0, 1, 9), CONFIG)
        assert number is not None and bins is not None
        exceeded += (number.value > number.chance) + (bins.value > bins.chance)
    assert exceeded <= 4  # 0.4 are expected


def test_a_warning_lies_between_the_bounds() -> None:
    found = share("g", "n", (100, 1000), (180, 1000), CONFIG)
    assert found is not None and found.state == "warn" and found.moved == "10.00% -> 18.00%"


def test_nothing_is_compared_with_nothing() -> None:
    empty = np.empty(0)
    assert values("g", "n", empty, np.ones(3), CONFIG) is None
    assert classes("g", "n", ["a"], [], CONFIG) is None and share("g", "n", (0, 0), (1, 2), CONFIG) is None


def test_values_outside_the_bins_fall_into_the_outermost() -> None:
    found = binned("g", "n", np.array([-5.0, 0.5]), np.array([0.5, 99.0]), (0, 1, 2), CONFIG)
    assert found is not None and found.moved == "0 to 1: 100.0% -> 50.0%"


def test_a_slow_stage_is_told_from_its_usual_time_and_needs_earlier_runs() -> None:
    slow = duration("extract", [50.0, 10.0, 11.0, 9.0], CONFIG)
    assert slow is not None and slow.state == "alarm" and slow.value == 5.0
    assert duration("extract", [50.0, 10.0, 11.0], CONFIG) is None


def test_an_alarm_below_its_warning_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be above"):
        Bounds(warn=0.3, alarm=0.2)
