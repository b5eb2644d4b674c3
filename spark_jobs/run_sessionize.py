"""spark-submit spark_jobs/run_sessionize.py --config run.json --landing DIR --summary out.json [--full]

Raw event files -> tables `quarantine` (stage=sessionize), `inputs` and `interactions`, in that order: the last one's commit is
what makes the night done, and it names the versions of the others that belong to it.

A night reads new files and those that share a day with them (spark_jobs.night). One shuffle by viewer, of bytes alone
(spark_jobs.shuffle); Arrow and numpy do the work inside the tasks (spark_jobs.tasks), which write the tables' parts
themselves. Cost: linear in the records read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mealrec.config import SessionizeConfig
from mealrec.schema import INTERACTIONS
from mealrec.sources.landing import day_in
from mealrec.stages.sessionize import settings_digest
from mealrec.stages.summary import StageSummary
from spark_jobs import commit, engine, night
from spark_jobs.job import Job, main
from spark_jobs.validate import day_number

STAGE = "sessionize"
FEWEST_ROWS, FEWEST_FILES = 1000, 10  # of a night: fewer say too little to stop it, and may come again every night


def run(job: Job) -> dict[str, Any]:
    began = time.monotonic()
    files = job.landing.named_files()
    stats = {name: (path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()}
    videos = frozenset(job.landing.catalogue()["video_id"].to_pylist())
    settings = settings_digest(job.config)
    last = "a rebuild was asked for" if job.full else night.last_night(job.lake, settings)
    found = night.changes(job.lake, last, stats, videos)
    work = engine.Engine(job, files, videos)
    if found.why is not None or isinstance(last, str):
        job.say(f"reading all {len(files)} event files: {found.why}")
        made, touched = work.whole(), None
    else:
        made, touched = _night(job, work, last, found)
    if unbound := files_without_day(list(files), job.config.sessionize):
        job.say(unbound)
    job.say(f"{made.rows} rows: {made.good} valid, {made.rows - made.good} to quarantine")
    base = None if touched is None else last
    assert not isinstance(base, str)
    plan = commit.prepare(job.lake, base, made, touched, found.gone)
    stop_when_too_bad(plan, made, len(found.fresh), job.config.sessionize.max_quarantine_share)
    summary = StageSummary(
        stage=STAGE,
        seconds=round(time.monotonic() - began, 3),
        rows_in=plan.rows + sum(plan.reasons.values()),
        rows_out=plan.rows,
        quarantined=plan.reasons,
        table=INTERACTIONS,
        details={
            "sessions": sum(s for s, _ in plan.per_day.values()),
            "positive": sum(p for _, p in plan.per_day.values()),
            "files": len(files),
            "read": {"rows": made.rows, "files": made.files, "days": len(made.days_written)},
            night.SETTINGS_KEY: settings,
        },
    )
    version = commit.commit(job, plan, summary, stats, videos)
    job.say(f"committed {INTERACTIONS} version {version}")
    return summary.model_copy(update={"version": version}).model_dump()


def _night(job: Job, work: engine.Engine, last: night.Last, found: night.Changes) -> tuple[engine.Made, frozenset[int]]:
    """What is made anew, and the days that were made from their records."""
    fresh_days = work.days_of(sorted(found.fresh))
    touched = frozenset(found.reopened)
    for name in found.fresh:
        touched |= fresh_days[name]
    for name in found.gone:
        touched |= last.days_of_file[name]
    kept = {name: days for name, days in last.days_of_file.items() if name not in found.gone}
    reread = sorted(name for name, days in kept.items() if days & touched)
    job.say(
        f"{len(found.fresh)} new event files touch {len(touched)} days; reading {len(reread)} files more that share them"
    )
    moved: frozenset[int] = frozenset()
    there = {day_number(day) for day in commit.days_there(job.lake, last.interactions)}
    while True:
        beside = night.neighbours(touched, there, moved, job.config.sessionize.gap_minutes)
        made = work.days(sorted(found.fresh), reread, touched, beside, last.interactions)
        further = made.moved - moved
        beyond = night.neighbours(touched, there, moved | further, job.config.sessionize.gap_minutes)
        if beyond.after == beside.after:
            break
        made.discard(job.lake, made.days_written)
        moved |= further
    made.discard(job.lake, beside.after - made.moved)
    made.days_of_file = {**kept, **fresh_days}
    return made, touched


def files_without_day(names: Sequence[str], config: SessionizeConfig) -> str | None:
    """What there is to say of event files whose names have no day where a rule asks for it."""
    rules = [rule for rule in ("late_days", "clock_skew_minutes") if getattr(config, rule) is not None]
    without = [name for name in names if day_in(name) is None]
    if not rules or not without:
        return None
    return (
        f"{len(without)} of {len(names)} event files have no day in their names, such as {min(without)}: "
        f"{' and '.join(f'sessionize.{rule}' for rule in rules)} can't be asked of them"
    )


def stop_when_too_bad(plan: commit.Plan, made: engine.Made, new_files: int, share: float) -> None:
    """By the rows that the tables would hold, by those that were read, and by the new files of which not one record has a time:
    a damaged file is one row, whatever was in it. Raises ValueError."""
    if not plan.rows:
        total = sum(plan.reasons.values())
        raise ValueError(f"no valid event in {total} rows; rejected: {plan.reasons or 'the files are empty'}")
    allows = f"more than sessionize.max_quarantine_share={share:g} allows"
    for good, reasons, fewest in ((plan.rows, plan.reasons, 0), (made.good, made.reasons, FEWEST_ROWS)):
        bad = sum(reasons.values())
        if good + bad >= fewest and bad > share * (good + bad):
            raise ValueError(f"{bad} of {good + bad} rows rejected, {allows}: {reasons}; nothing was committed")
    if new_files >= FEWEST_FILES and len(made.unreadable) > share * new_files:
        raise ValueError(
            f"{len(made.unreadable)} of {new_files} new event files have no record with a time, {allows}, such as "
            f"{min(made.unreadable)}; nothing was committed"
        )


if __name__ == "__main__":
    main("run_sessionize.py", __doc__ or "", run)
