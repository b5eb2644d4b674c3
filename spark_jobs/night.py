"""What a night has to do: which files are new, which days they touch, which files are read for them, which neighbours matter.

The tables are a function of the event files, the catalogue and the settings. A night makes anew the days on which anything may
be different, from all files that have records of those days, and nothing else. That is right because what a record becomes
depends on its viewer's UTC day alone (spark_jobs.sessionize), but for the session it stands in: there the events within a gap
of the day's ends are looked at, and a following day is made anew when a session reaches into it and changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow.compute as pc

from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.schema import INPUTS, INTERACTIONS, QUARANTINE
from spark_jobs.outcome import UNDATED
from spark_jobs.validate import DAY_MS, day_number

SETTINGS_KEY = "settings"
Stat = tuple[int, int]  # bytes, change time in ns


@dataclass(frozen=True)
class Last:
    """The night before: versions it committed, and what it was made from."""

    interactions: int
    quarantine: int
    files: Mapping[str, Stat]
    days_of_file: Mapping[str, frozenset[int]]
    per_day: Mapping[str, tuple[int, int]]
    videos: frozenset[str]


@dataclass(frozen=True)
class Changes:
    """Files by name. why: of a rebuild as a whole, None where the last night can be built on."""

    fresh: frozenset[str]
    gone: frozenset[str]  # vanished, or another file than before under the name
    reopened: frozenset[int]  # days with records whose video was unknown and is not any more
    why: str | None = None


@dataclass(frozen=True)
class Neighbours:
    """Days that are looked at beside the touched ones. after: their sessions are made again; trusted: they stay."""

    after: frozenset[int] = frozenset()
    trusted: frozenset[int] = frozenset()
    since_ms: Mapping[int, int] = field(
        default_factory=dict
    )  # of a trusted day: earlier events are too far from anything


def last_night(lake: Lake, settings: str) -> Last | str:
    """The last commit with these settings, else why there is nothing to build on."""
    if not lake.exists(INTERACTIONS):
        return "there is no table yet"
    commit = lake.last_commit(INTERACTIONS, "sessionize")
    if commit is None or commit.version != lake.version(INTERACTIONS):
        return "the table's last version was not made by this stage"
    made_from: dict[str, int] = json.loads(commit.metadata.get("mealrec.inputs", "{}"))
    summary = json.loads(commit.metadata[SUMMARY_KEY])
    if INPUTS not in made_from or summary["details"].get(SETTINGS_KEY) != settings:
        return "the settings or the version of the program are others"
    rows = lake.read(INPUTS, made_from[INPUTS]).to_pylist()
    files = [r for r in rows if r["kind"] == "file"]
    return Last(
        interactions=commit.version,
        quarantine=made_from[QUARANTINE],
        files={r["name"]: (r["size"], r["mtime_ns"]) for r in files},
        days_of_file={r["name"]: frozenset(map(day_number, r["days"])) for r in files},
        per_day={r["name"]: (r["sessions"], r["positive"]) for r in rows if r["kind"] == "day"},
        videos=frozenset(r["name"] for r in rows if r["kind"] == "video"),
    )


def changes(lake: Lake, last: Last | str, files: Mapping[str, Stat], videos: frozenset[str]) -> Changes:
    if isinstance(last, str):
        return Changes(frozenset(files), frozenset(), frozenset(), last)
    fresh = frozenset(name for name, stat in files.items() if last.files.get(name) != stat)
    gone = frozenset(name for name, stat in last.files.items() if files.get(name) != stat)
    if lost := last.videos - videos:
        why = f"{len(lost)} videos have left the catalogue, such as {min(lost)}"
        return Changes(frozenset(files), frozenset(), frozenset(), why)
    if not (files.keys() - fresh):
        return Changes(frozenset(files), frozenset(), frozenset(), "every event file is new")
    return Changes(fresh, gone, _reopened(lake, last, videos - last.videos))


def _reopened(lake: Lake, last: Last, added: frozenset[str]) -> frozenset[int]:
    if not added:
        return frozenset()
    chosen = (pc.field("stage") == "sessionize") & (pc.field("reason") == "unknown_video")
    scanner = lake.dataset(QUARANTINE, last.quarantine).scanner(columns=["key", "ingest_date"], filter=chosen)
    days = {
        day
        for batch in scanner.to_batches()
        for key, day in zip(batch.column("key").to_pylist(), batch.column("ingest_date").to_pylist(), strict=True)
        if key in added
    }
    return frozenset(day_number(day) for day in days if not day.startswith(UNDATED))


def neighbours(touched: frozenset[int], there: Iterable[int], moved: frozenset[int], gap_minutes: int) -> Neighbours:
    """moved: days after touched ones whose sessions were found to change, so that the days after them matter as well."""
    reach = math.ceil(gap_minutes * 60_000 / DAY_MS)
    present = frozenset(there)
    after = {day + n for day in touched | moved for n in range(1, reach + 1)} - touched
    made = touched | after
    before = ({day - n for day in made for n in range(1, reach + 1)} - made) & present
    nearest = {day: min(other for other in made if other > day) for day in before}
    since = {day: nearest[day] * DAY_MS - gap_minutes * 60_000 for day in before}
    return Neighbours(frozenset(after & present), frozenset(before), since)
