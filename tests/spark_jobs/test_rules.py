"""What is positive, and what is rejected, is a matter of settings: the same rows under two of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mealrec.presets import preset
from mealrec.sources.landing import day_in
from spark_jobs.outcome import partition_of
from spark_jobs.run_sessionize import files_without_day
from spark_jobs.validate import NO_DAY, day_name, day_number
from tests.breakages import ROOT
from tests.spark_jobs.test_transforms import BASE, CONFIG, event, outcomes

HOUR = 3_600_000
RULES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"min_watch_ratio": 0.9}, event(1, watch_ms=899), event(1, watch_ms=900)),
    ({"min_watch_ratio": 0.1}, event(1, watch_ms=99), event(1, watch_ms=100)),
    ({"positive_events": ("comment",)}, event(1, event_type="like"), event(1, event_type="comment")),
    ({"positive_events": ("view",), "min_watch_ratio": 1.0}, event(1, event_type="share"), event(1, watch_ms=1)),
]


@pytest.mark.parametrize(("settings", "not_positive", "positive"), RULES)
def test_what_is_positive_goes_by_the_settings(
    tmp_path: Path, settings: dict[str, Any], not_positive: dict[str, Any], positive: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update=settings)
    lines = [
        json.dumps(row | {"event_id": name, "user_id": name}) for name, row in (("no", not_positive), ("yes", positive))
    ]
    good, bad = outcomes(tmp_path, lines, config=config)
    assert bad == [] and {r["event_id"]: r["is_positive"] for r in good} == {"no": False, "yes": True}


LIMITS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"max_watch_ratio": 2.0}, {"watch_ms": 2001}, "watch_too_long"),
    ({"max_field_bytes": 16}, {"device": "é" * 9}, "oversize_field"),  # 18 bytes
    ({"max_field_bytes": 16}, {"video_id": "v" * 17}, "oversize_field"),
    ({"earliest": "2026-01-06"}, {"timestamp": "2026-01-05T23:59:59.999Z"}, "impossible_time"),
    ({"latest": "2026-01-06"}, {"timestamp": "2026-01-06T00:00:00Z"}, "future"),
    ({"late_days": 0}, {"timestamp": "2026-01-04T23:59:59.999Z"}, "too_late"),
    ({"clock_skew_minutes": 90}, {"timestamp": "2026-01-06T01:30:00Z"}, "future"),
]


@pytest.mark.parametrize(("settings", "changes", "reason"), LIMITS)
def test_what_is_rejected_goes_by_the_settings(
    tmp_path: Path, settings: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    """The row is of 2026-01-05, the day of its file."""
    row = json.dumps(event(1, timestamp=BASE + HOUR) | changes)
    videos = ("v1", "v" * 17)
    good, bad = outcomes(tmp_path / "usual", [row], files=1, videos=videos)
    assert (len(good), bad) == (1, [])
    good, bad = outcomes(tmp_path / "strict", [row], files=1, videos=videos, config=CONFIG.model_copy(update=settings))
    assert good == [] and [r["reason"] for r in bad] == [reason]


def test_a_machine_is_known_by_the_most_busy_minute_that_the_settings_allow(tmp_path: Path) -> None:
    rows = [event(n, user_id="u1", video_id="v1", timestamp=BASE + HOUR + n * 1000) for n in range(5)]
    rows += [event(9, user_id="u1", timestamp=BASE + 10 * HOUR), event(10, user_id="u2", timestamp=BASE + HOUR)]
    for most, machines in ((5, 0), (4, 6), (None, 0)):
        config = CONFIG.model_copy(update={"bot_events_a_minute": most})
        good, bad = outcomes(tmp_path / str(most), [json.dumps(row) for row in rows], config=config)
        assert (len(good), [r["reason"] for r in bad]) == (7 - machines, ["bot_like_rate"] * machines)


def test_the_production_preset_keeps_out_what_is_of_years_to_come(tmp_path: Path) -> None:
    """A west coast's day ends in the UTC day after: that is no future yet."""
    config = preset("production").sessionize
    of_its_day = json.dumps(event(1, timestamp=BASE + 33 * HOUR))
    for timestamp, reasons in ((BASE + 24 * 365 * HOUR, ["future"]), (BASE + 49 * HOUR, ["future"])):
        rows = [of_its_day, json.dumps(event(2, timestamp=timestamp))]
        good, bad = outcomes(tmp_path / str(timestamp), rows, files=1, config=config)
        assert (len(good), [r["reason"] for r in bad]) == (1, reasons)
    nightly = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]
    assert nightly["parameters"]["config"]["sessionize"] == {"clock_skew_minutes": config.clock_skew_minutes}


def test_files_without_a_day_are_named_where_a_rule_asks_for_it() -> None:
    names = ["a/export.jsonl", "events-2026-01-05.jsonl", "events_20260106.csv"]
    bound = CONFIG.model_copy(update={"late_days": 3, "clock_skew_minutes": 60})
    said = files_without_day(names, bound) or ""
    assert "1 of 3 event files have no day in their names, such as a/export.jsonl" in said
    assert "sessionize.late_days and sessionize.clock_skew_minutes" in said
    assert files_without_day(names, CONFIG) is files_without_day(names[1:], bound) is None


def test_the_day_in_a_name_may_be_written_without_dashes() -> None:
    names = ["e20260105.csv", "20260105T0230.jsonl", "e_2026_01_05.csv", "2026/01/05/e.csv", "dt=2026-01-05/e.csv"]
    assert {day_in(name) for name in names} == {"2026-01-05"}
    assert {day_in(name) for name in ("e-202601051.csv", "e-2026_01-05", "e-20261305", "e-12345678")} == {None}
    assert day_in("dt=2026-01-05/part-20191231-8f3a.parquet") == "2026-01-05", "the number is a number"


def test_a_leap_day_is_a_day_and_29_february_of_another_year_is_none() -> None:
    names = ["events-2028-02-29.jsonl", "events-20280229.jsonl", "events-2027-02-29.jsonl", "events-2100-02-29.jsonl"]
    assert [day_in(name) for name in names] == ["2028-02-29", "2028-02-29", None, None]
    number = day_number("2028-02-29")
    assert [day_name(number + n) for n in (-1, 0, 1)] == ["2028-02-28", "2028-02-29", "2028-03-01"]
    assert partition_of(number, NO_DAY) == "2028-02-29" and partition_of(None, number) == "undated-2028-02-29"
    assert day_number("2028-03-01") * 86_400_000 == 1_835_481_600_000
