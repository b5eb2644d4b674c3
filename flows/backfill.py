"""Tables as they would have been at the end of each day of a range, oldest first, one version a day."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows import hooks, sweep
from flows.stages import sequences, sessionize
from mealrec.config import RunConfig, override
from mealrec.lake import SUMMARY_KEY, Commit, Lake
from mealrec.schema import INTERACTIONS, SEQUENCES
from mealrec.sources.landing import SourceError, locate
from mealrec.stages.sequences import sequences_digest
from mealrec.stages.sessionize import sessionize_digest

Row = dict[str, Any]


@flow(name="mealrec-backfill", persist_result=False, **hooks.ON)
def backfill(config: RunConfig, first: date, last: date) -> list[Row]:
    """Build `interactions` and `sequences` from all event files up to each day; returns one summary a day.

    Each day is a version of its own, to train or compare on, made as a night is: from the version before, of the files that
    come or go and those that share a day with them. A day whose versions are in the tables' history is not built again: an
    interrupted backfill goes on, a second one has nothing to do. At the end the tables hold every event file again, whatever
    the range was; until then the endpoint keeps to the version before. What trains or recommends meanwhile takes the newest,
    which is a day's.
    Raises SourceError when no event file lies in the range, naming the days that there are.
    """
    log = get_run_logger()
    sweep.before_a_run()
    rows: list[Row] = []
    for day in days_between(locate(config).event_days(), first, last):
        rows.append(_day(config, day))
        log.info("backfill %s: %s", day, json.dumps(rows[-1]))
        create_table_artifact(table=rows, key="mealrec-backfill", description=f"Backfill {first} to {last}")
    sessionize(config)
    sequences(config)
    return rows


def days_between(there: list[str], first: date, last: date) -> list[str]:
    """The days of the range that have an event file, oldest first. Raises SourceError when there is none."""
    chosen = [day for day in there if first.isoformat() <= day <= last.isoformat()]
    if not chosen:
        raise SourceError(f"no event file from {first} to {last}: there are days from {there[0]} to {there[-1]}")
    return chosen


def _day(config: RunConfig, day: str) -> Row:
    through = override(config, [f"source.through={json.dumps(day)}"])
    done = _built(through)
    if done is not None:
        events, viewers = (json.loads(commit.metadata[SUMMARY_KEY]) for commit in done)
        versions = [commit.version for commit in done]
    else:
        made = sessionize(through), sequences(through)
        events, viewers = (stage.counts() for stage in made)
        versions = [stage.version for stage in made]
    return {
        "day": day,
        "interactions": events["rows_out"],
        "quarantined": sum(events["quarantined"].values()),
        "viewers": viewers["rows_out"],
        "interactions version": versions[0],
        "sequences version": versions[1],
        "built": done is None,
    }


def _built(config: RunConfig) -> tuple[Commit, Commit] | None:
    """The commits of both tables that were made from just these files and settings, when history has them."""
    lake, landing = Lake(config.lake, config.work), locate(config)
    events = lake.find_commit(INTERACTIONS, "sessionize", sessionize_digest(config, landing))
    if events is None:
        return None
    made_from = sequences_digest(config, landing, events.version)
    viewers = lake.find_commit(SEQUENCES, "sequences", made_from)
    return None if viewers is None else (events, viewers)
