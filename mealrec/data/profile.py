"""A data profile: what the tables that training reads hold, in counts alone.

Read as a stream over Arrow's own readers in the stage's process: a Spark session costs ten seconds before its first row, and
nothing here needs a shuffle. Session lengths come from the rows' places, rows of a viewer from the smallest hashes
(mealrec.data.histograms), null counts from the files' footers. Cost: one pass over eight columns of `interactions` and a few
of the others, one footer a file; the last week and the days since are read again. Memory: counters, one integer a video.

A day that has only begun says nothing about a whole one: its events count among all, but neither in the last week nor as new
until it is over.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec.data.histograms import LENGTH_EDGES, RATIO_EDGES, SECOND_EDGES, Bins, Classes, Sessions, Viewers
from mealrec.lake import Lake
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, PROFILES, QUARANTINE, SCHEMAS, SEQUENCES

Kind = Literal["count", "share", "classes", "time"]
Part = Literal["whole", "week", "recent"]
Hours = npt.NDArray[np.int64]  # 24
PROFILED = (INTERACTIONS, QUARANTINE, ITEMS, SEQUENCES, FEATURES)
REJECTING = {
    "sessionize": INTERACTIONS,
    "extract": FEATURES,
}  # stages with rejects, and the table whose commit makes each done
COLUMNS = (
    "user_id",
    "event_type",
    "timestamp_ms",
    "session_position",
    "watch_ms",
    "watch_ratio",
    "is_positive",
    "device",
)
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
GOOD = "(good)"
WEEK = 7
UNSURE = 2  # days at the end that may not be over: the one that has begun, and one that clocks ahead of it reach into
ENOUGH = 0.005  # of a day's events: fewer may be of clocks that are wrong


@dataclass(frozen=True)
class Measured:
    """One quantity of one part of the tables: a row of `profiles`."""

    part: Part
    group: str
    name: str
    kind: Kind
    counts: tuple[int, ...]
    labels: tuple[str, ...] = ()


def pinned(lake: Lake) -> dict[str, int]:
    """Newest versions of the tables that are profiled, of `quarantine` the newest that belongs to them."""
    versions = {table: lake.at(table).version() for table in PROFILED}
    return versions | {QUARANTINE: max(_rejects_of(lake, versions).values())}


def measure(lake: Lake, versions: Mapping[str, int], known: str | None) -> list[Measured]:
    """known: the last UTC day that was over in the accepted profile. Later days that are over are counted by themselves as
    well, because one night is little among all, and so are the last WEEK days, for the next night to stand beside."""
    files = {table: lake.files(table, versions[table]) for table in PROFILED}
    days = sorted({_day(path) for path in files[INTERACTIONS]})
    ended = over(_hours(lake, versions[INTERACTIONS], days[-WEEK - UNSURE :]))
    complete = [day for day in days if ended and day <= ended[-1]]
    parts: dict[Part, list[str]] = {"whole": days, "week": complete[-WEEK:]}
    if known is not None:
        parts["recent"] = [day for day in complete if day > known]
    out: list[Measured] = []
    for part, chosen in parts.items():
        if chosen:
            first, last = chosen[0], chosen[-1]
            out += _events(lake, versions[INTERACTIONS], part, (first, last), ended[-1] if ended else "")
            out.append(Measured(part, "rows", "days", "count", (len(chosen),)))
            out += _nulls(lake, INTERACTIONS, [p for p in files[INTERACTIONS] if first <= _day(p) <= last], part)
    for table in (ITEMS, SEQUENCES, FEATURES):
        out += _nulls(lake, table, files[table])
    out += _quarantine(lake, versions)
    out += _items(lake, versions[ITEMS])
    out += _sequences(lake, versions[SEQUENCES])
    out += _features(lake, versions[FEATURES])
    return out


def to_table(profile: Iterable[Measured]) -> pa.Table:
    rows = [asdict(one) | {"labels": list(one.labels), "counts": list(one.counts)} for one in profile]
    return pa.Table.from_pylist(rows, schema=SCHEMAS[PROFILES])


def read(lake: Lake, version: int) -> list[Measured]:
    rows = lake.read(PROFILES, version).to_pylist()
    return [Measured(**row | {"labels": tuple(row["labels"]), "counts": tuple(row["counts"])}) for row in rows]


def last_day(profile: Iterable[Measured]) -> str | None:
    """The last UTC day with events that was over; None where none was."""
    times = [one.counts[1] for one in profile if (one.part, one.name) == ("week", "time")]
    return datetime.fromtimestamp(times[0] / 1000, UTC).date().isoformat() if times else None


def over(hours: Mapping[str, Hours]) -> list[str]:
    """Of days in their order, given with their events by hour, those that are over.

    A day is when events came in the last hour that usually has some, or later: then its files are there to the end, whatever
    the clock says and wherever midnight is. Of the days before the last UNSURE that is taken for granted."""
    days = list(hours)
    ended = len(days)
    while ended > max(len(days) - UNSURE, 0) and not _is_over(list(hours.values()), ended - 1):
        ended -= 1
    return days[:ended]


def _is_over(hours: Sequence[Hours], place: int) -> bool:
    before = np.sum(hours[max(place - WEEK, 0) : place], axis=0) if place else np.zeros(24, dtype=np.int64)
    busy = np.flatnonzero(before >= max(ENOUGH * before.sum(), 1))
    last = int(busy[-1]) if len(busy) else 23
    came = hours[place][last:].sum() + sum(int(day.sum()) for day in hours[place + 1 :])
    usual = max(float(hours[place].sum()), before.sum() / max(min(place, WEEK), 1))
    return bool(came and came >= ENOUGH * usual)


def _hours(lake: Lake, version: int, days: Sequence[str]) -> dict[str, Hours]:
    """Events of each of these days by hour; they are the table's last."""
    found = {day: np.zeros(24, dtype=np.int64) for day in days}
    since = pc.field("event_date") >= min(days, default="")
    for batch in lake.dataset(INTERACTIONS, version).to_batches(columns=["timestamp_ms"], filter=since):
        for hour, rows in zip(*np.unique(batch["timestamp_ms"].to_numpy() // HOUR_MS, return_counts=True), strict=True):
            found[str(np.datetime64(int(hour) // 24, "D"))][hour % 24] += rows
    return found


def _events(lake: Lake, version: int, part: Part, between: tuple[str, str], ended: str) -> Iterator[Measured]:
    """Events of the days from one to another; hours of those up to `ended` alone, the last day that is over."""
    hours, types, devices = np.zeros(24, dtype=np.int64), Classes(), Classes()
    ratios, seconds, sessions, viewers = Bins(RATIO_EDGES), Bins(SECOND_EDGES), Sessions(), Viewers()
    rows = positive = 0
    times: list[int] = []
    until_ms = np.datetime64(ended, "ms").astype(np.int64) + DAY_MS if ended else 0
    chosen = (pc.field("event_date") >= between[0]) & (pc.field("event_date") <= between[1])
    for batch in lake.dataset(INTERACTIONS, version).to_batches(columns=list(COLUMNS), filter=chosen):
        if not batch.num_rows:
            continue
        rows += batch.num_rows
        positive += pc.sum(batch["is_positive"]).as_py() or 0
        stamps = batch["timestamp_ms"].to_numpy()
        times = [min([*times[:1], int(stamps.min())]), max([*times[1:], int(stamps.max())])]
        hours += np.bincount(stamps[stamps < until_ms] // HOUR_MS % 24, minlength=24)
        types.add(batch["event_type"])
        devices.add(batch["device"])
        ratios.add(batch["watch_ratio"].drop_null().to_numpy(zero_copy_only=False))
        seconds.add(batch["watch_ms"].drop_null().to_numpy(zero_copy_only=False) / 1000)
        sessions.add(batch["session_position"].drop_null().to_numpy(zero_copy_only=False))
        viewers.add(batch["user_id"])
    yield Measured(part, "rows", INTERACTIONS, "count", (rows,))
    yield Measured(part, "rows", "viewers", "count", (viewers.count(),))
    if times:
        yield Measured(part, INTERACTIONS, "time", "time", tuple(times))
    yield Measured(part, INTERACTIONS, "positive", "share", (positive, rows))
    yield _classes(part, INTERACTIONS, "hour_of_day", {f"{hour:02d}": int(n) for hour, n in enumerate(hours)})
    yield _classes(part, INTERACTIONS, "event_type", types.counts())
    yield _classes(part, INTERACTIONS, "device", devices.counts())
    yield _binned(part, INTERACTIONS, "watch_ratio", ratios)
    yield _binned(part, INTERACTIONS, "watch_seconds", seconds)
    if part == "whole":  # of a part of the days sessions are cut, and a viewer has few rows
        yield _binned(part, INTERACTIONS, "session_length", sessions.lengths())
        each = Bins(LENGTH_EDGES)
        each.add(viewers.rows)
        yield _binned(part, INTERACTIONS, "events_a_viewer", each)


def _quarantine(lake: Lake, versions: Mapping[str, int]) -> Iterator[Measured]:
    for stage, version in _rejects_of(lake, versions).items():
        reasons: Counter[str] = Counter()
        own = lake.dataset(QUARANTINE, version).to_batches(columns=["reason"], filter=pc.field("stage") == stage)
        for batch in own:
            reasons.update(batch["reason"].to_pylist())
        table = REJECTING[stage]
        good, bad = lake.dataset(table, versions[table]).count_rows(), sum(reasons.values())
        yield Measured("whole", QUARANTINE, stage, "share", (bad, good + bad))
        yield _classes("whole", QUARANTINE, f"{stage}_reasons", {GOOD: good} | dict(sorted(reasons.items())))


def _rejects_of(lake: Lake, versions: Mapping[str, int]) -> dict[str, int]:
    """By stage, the version of `quarantine` that the commit of its table names: a newer one may be of a run that ended before
    it had committed that table."""
    found = {}
    for stage, table in REJECTING.items():
        commit = next((one for one in lake.history(table) if one.version == versions[table]), None)
        named = json.loads(commit.metadata.get("mealrec.inputs", "{}")) if commit is not None else {}
        found[stage] = int(named.get(QUARANTINE, versions[QUARANTINE]))
    return found


def _items(lake: Lake, version: int) -> Iterator[Measured]:
    """How many of all interactions fall to the most watched tenth of the videos, to the next, ...: a shape that does not change
    while the log only grows."""
    watched = np.sort(lake.read(ITEMS, version, columns=["interactions"])["interactions"].to_numpy())[::-1]
    yield Measured("whole", "rows", "videos", "count", (len(watched),))
    tenths = [int(part.sum()) for part in np.array_split(watched, 10)]
    labels = ["most watched", *[f"tenth {n}" for n in range(2, 10)], "least watched"]
    yield _classes("whole", ITEMS, "popularity", dict(zip(labels, tenths, strict=True)))


def _sequences(lake: Lake, version: int) -> Iterator[Measured]:
    bins, viewers = Bins(LENGTH_EDGES), 0
    for batch in lake.dataset(SEQUENCES, version).to_batches(columns=["length"]):
        viewers += batch.num_rows
        bins.add(batch["length"].to_numpy())
    yield Measured("whole", "rows", SEQUENCES, "count", (viewers,))
    yield _binned("whole", SEQUENCES, "history_length", bins)


def _features(lake: Lake, version: int) -> Iterator[Measured]:
    videos, without, seconds = 0, Counter[str](), Bins(SECOND_EDGES)
    for batch in lake.dataset(FEATURES, version).to_batches(columns=["absent", "duration_ms"]):
        videos += batch.num_rows
        without.update(entry.partition(":")[0] for row in batch["absent"].to_pylist() for entry in row or ())
        seconds.add(batch["duration_ms"].drop_null().to_numpy(zero_copy_only=False) / 1000)
    yield Measured("whole", "rows", FEATURES, "count", (videos,))
    for modality in ("video", "audio", "text"):
        yield Measured("whole", FEATURES, f"without_{modality}", "share", (without[modality], videos))
    yield _binned("whole", FEATURES, "video_seconds", seconds)


def _nulls(lake: Lake, table: str, files: Sequence[str], part: Part = "whole") -> Iterator[Measured]:
    """From the footers alone: token arrays are heavy. Lists are left out, their footers count empty ones as null."""
    filesystem, root = lake.filesystem(table)
    nulls, rows = Counter[str](), 0
    for path in files:
        with filesystem.open_input_file(f"{root}/{path}") as source:
            file = pq.ParquetFile(source)
            rows += file.metadata.num_rows
            for group in range(file.metadata.num_row_groups):
                for n in range(file.metadata.num_columns):
                    column = file.metadata.row_group(group).column(n)
                    if "." in column.path_in_schema:
                        continue
                    known = column.statistics is not None and column.statistics.has_null_count
                    if known:
                        nulls[column.path_in_schema] += column.statistics.null_count
                    else:
                        read = file.read_row_group(group, columns=[column.path_in_schema])
                        nulls[column.path_in_schema] += read[0].null_count
    flat = [field.name for field in SCHEMAS[table] if field.name in nulls]
    yield from (Measured(part, table, f"null_{name}", "share", (nulls[name], rows)) for name in flat)


def _classes(part: Part, group: str, name: str, rows: Mapping[str, int]) -> Measured:
    return Measured(part, group, name, "classes", tuple(rows.values()), tuple(rows))


def _binned(part: Part, group: str, name: str, bins: Bins) -> Measured:
    return Measured(part, group, name, "classes", tuple(map(int, bins.counts)), tuple(bins.labels))


def _day(path: str) -> str:
    """Of a file of `interactions`."""
    return path.removeprefix("event_date=").partition("/")[0]
