"""How two profiles are compared."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from mealrec.config import ProfileConfig
from mealrec.data.profile import Measured, Part
from mealrec.evaluation.drift import change
from mealrec.evaluation.profile import aligned, compare
from mealrec.evaluation.profile_page import HEIGHT, ProfileData, render
from mealrec.schema import INTERACTIONS, SEQUENCES

CONFIG = ProfileConfig()


def classes(name: str, part: Part = "whole", group: str = INTERACTIONS, **rows: int) -> Measured:
    return Measured(part, group, name, "classes", tuple(rows.values()), tuple(rows))


def rows(name: str, count: int, part: Part = "whole") -> Measured:
    return Measured(part, "rows", name, "count", (count,))


def test_the_index_is_that_of_the_formula_also_with_an_empty_class() -> None:
    then, now = [rows("days", 9), classes("device", ios=600, web=400)], [rows("days", 9), classes("device", ios=1000)]
    found = {q.name: q for q in compare(then, now, CONFIG)}["device"]
    p, q = [600.5 / 1001, 400.5 / 1001], [1000.5 / 1001, 0.5 / 1001]  # half a row more in every class
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert found.value == pytest.approx(by_hand, abs=1e-5) and found.state == "alarm"
    assert (found.then, found.now) == ("ios: 60.0%", "100.0%")


def test_a_count_may_grow_further_than_it_may_fall() -> None:
    bounds = (CONFIG.fall, CONFIG.growth)
    states = [change("rows", "viewers", 1000, now, *bounds).state for now in (1000, 801, 800, 600, 0, 2400, 2500, 5000)]
    assert states == ["ok", "ok", "warn", "alarm", "alarm", "ok", "warn", "alarm"]
    assert change("rows", "viewers", 1000, 600, *bounds).moved == "1,000 -> 600 (-40.0%)"
    assert change("rows", "viewers", 0, 3, *bounds).value == 3


def test_values_that_one_side_folded_together_are_folded_on_the_other() -> None:
    then, now = classes("device", ios=5, tv=2, web=3), classes("device", ios=4, car=1, **{"(other)": 6})
    assert aligned(then, now) == (["ios", "(other)"], [5, 5], [4, 7])
    assert aligned(then, classes("device", car=1, ios=2)) == (["ios", "tv", "web", "car"], [5, 2, 3, 0], [2, 0, 0, 1])


def test_what_only_grows_with_the_days_is_compared_between_tables_of_as_many_days() -> None:
    then = [rows("days", 10), classes("history_length", group=SEQUENCES, short=900, long=100)]
    later = classes("history_length", group=SEQUENCES, short=100, long=900)
    assert {q.name: q.state for q in compare(then, [rows("days", 11), later], CONFIG)}["history_length"] == "alarm"
    assert "history_length" not in {q.name for q in compare(then, [rows("days", 20), later], CONFIG)}


def test_new_days_stand_beside_the_last_week_and_what_was_new_then_beside_nothing() -> None:
    then = [rows("days", 90), classes("device", a=900, b=100), classes("device", "week", a=100, b=900)]
    then += [classes("device", "recent", a=1000, b=0)]
    now = [rows("days", 91), classes("device", "recent", a=100, b=900), classes("device", "week", a=900, b=100)]
    found = {(q.group, q.name): q.state for q in compare(then, now, CONFIG)}
    assert found == {("rows", "days"): "ok", ("new days: interactions", "device"): "ok"}


def test_a_time_range_that_jumps_is_named() -> None:
    day = 86_400_000
    then, now = (
        [rows("days", 9), Measured("whole", INTERACTIONS, "time", "time", (0, last))] for last in (9 * day, 400 * day)
    )
    (found,) = (q for q in compare(then, now, CONFIG) if q.name == "time_range_days")
    assert found.state == "alarm" and found.moved == "10 -> 401 (+3910.0%)"


def test_a_time_range_that_moves_as_a_whole_is_named() -> None:
    """As when seconds were read as milliseconds, or a year's files took another's place."""
    day = 86_400_000
    then, month_later, day_later = (
        [rows("days", 30), Measured("whole", INTERACTIONS, "time", "time", (first * day, (first + 30) * day - 1))]
        for first in (0, 30, 1)
    )
    found = {q.name: q for q in compare(then, month_later, CONFIG)}
    assert found["time_range_days"].state == "ok" and found["days_still_covered"].state == "alarm"
    assert found["days_still_covered"].moved == "30 -> 0 (-100.0%)"
    assert {q.state for q in compare(then, day_later, CONFIG)} == {"ok"}, (
        "what is kept for a month moves by a day each night"
    )


def test_the_page_draws_then_beside_now_each_as_high_as_its_share(tmp_path: Path) -> None:
    then = [rows("days", 30), classes("device", ios=300, web=100), classes("device", "week", ios=30, web=10)]
    now = [rows("days", 31), classes("device", ios=200, web=200), classes("device", "recent", ios=1, web=4)]
    page = render(ProfileData(1, {}, None, then, now, []), tmp_path / "profile.html").read_text()
    assert "31</b><span>days (then 30)" in page
    plots = page.split("<svg")[1:]
    drawn = [
        [(float(height), colour) for height, colour in re.findall(r'height="([\d.]+)" fill="(#\w+)"', plot)]
        for plot in plots
    ]
    then_, now_ = "#cbd5e1", "#c2410c"
    # new days stand beside the last week; the highest bar is HEIGHT high
    assert drawn[0] == [
        (round(HEIGHT * 0.75 / 0.8, 1), then_),
        (30.0, now_),
        (round(HEIGHT * 0.25 / 0.8, 1), then_),
        (120.0, now_),
    ]
    assert drawn[1] == [(120.0, then_), (80.0, now_), (40.0, then_), (80.0, now_)]
    assert "ios: 75.00% then, 20.00% now" in plots[0] and "web: 25.00% then, 50.00% now" in plots[1]
