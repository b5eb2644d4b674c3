"""A range of days, oldest first: one version of the tables a day, resumable, nothing to do the second time."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from flows.backfill import backfill, days_between
from mealrec.config import override
from mealrec.lake import THROUGH_KEY, Lake
from mealrec.schema import INTERACTIONS, SEQUENCES
from mealrec.sources.landing import SourceError
from mealrec.stages.sequences import sequences
from mealrec.stages.sessionize import sessionize
from tests.spark_jobs.test_submit import write_landing

DAYS = ["2026-01-05", "2026-01-06", "2026-01-08"]


def test_only_days_of_the_range_that_have_a_file_are_built_oldest_first() -> None:
    assert days_between(DAYS, date(2026, 1, 6), date(2026, 1, 31)) == ["2026-01-06", "2026-01-08"]


def test_a_range_without_a_file_is_an_error_that_names_the_days_there_are() -> None:
    with pytest.raises(SourceError, match="from 2026-01-05 to 2026-01-08"):
        days_between(DAYS, date(2026, 2, 1), date(2026, 2, 2))


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row.get("event_id") or row["user_id"])


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.usefixtures("prefect_server")
def test_each_day_is_a_version_and_the_tables_end_whole(tmp_path: Path) -> None:
    config = write_landing(tmp_path, days=2, bad=1)
    lake = Lake(config.lake)
    rows = backfill(config, date(2026, 1, 5), date(2026, 1, 5))
    assert [(r["day"], r["interactions"], r["quarantined"], r["built"]) for r in rows] == [("2026-01-05", 40, 1, True)]
    assert lake.read(INTERACTIONS, rows[0]["interactions version"]).num_rows == 40
    assert lake.read(INTERACTIONS).num_rows == 80, "the day after the range is there again"
    assert [commit.metadata[THROUGH_KEY] for commit in lake.history(SEQUENCES)] == ["", "2026-01-05"]
    versions = lake.version(INTERACTIONS), lake.version(SEQUENCES)
    again = backfill(config, date(2026, 1, 5), date(2026, 1, 6))
    assert [(r["day"], r["interactions"], r["built"]) for r in again] == [
        ("2026-01-05", 40, False),
        ("2026-01-06", 80, False),
    ]
    assert (lake.version(INTERACTIONS), lake.version(SEQUENCES)) == versions


@pytest.mark.night
@pytest.mark.spark
@pytest.mark.usefixtures("prefect_server")
def test_a_backfilled_day_is_what_a_direct_build_of_it_gives(tmp_path: Path) -> None:
    config = write_landing(tmp_path, days=2, bad=1)
    rows = backfill(config, date(2026, 1, 5), date(2026, 1, 5))
    direct = override(config, [f"lake={tmp_path / 'direct'}", "source.through=2026-01-05"])
    for table, stage in ((INTERACTIONS, sessionize), (SEQUENCES, sequences)):
        stage(direct)
        first = Lake(config.lake).read(table, rows[0][f"{table} version"]).to_pylist()
        assert ordered(first) == ordered(Lake(direct.lake).read(table).to_pylist()), "row by row, sessions as well"
