"""The Spark side of sessionizing: one shuffle by viewer between reading tasks and writing tasks."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pyspark import RDD

from mealrec.lake import Lake
from mealrec.schema import INTERACTIONS, QUARANTINE
from spark_jobs import tasks, units
from spark_jobs.job import Job
from spark_jobs.night import Neighbours
from spark_jobs.progress import followed
from spark_jobs.records import Columns, Part
from spark_jobs.validate import NO_DAY, Rules, day_name, day_number


@dataclass
class Made:
    """What the tasks wrote and counted: parts by table with their rows, before anything is committed."""

    parts: Mapping[str, dict[str, int]]
    reasons: dict[str, int]
    good: int  # valid rows of the files read, context not counted
    days_written: frozenset[int]
    per_day: dict[str, tuple[int, int]]
    moved: frozenset[int]
    days_of_file: Mapping[str, frozenset[int]]
    files: int
    unreadable: frozenset[str]  # files with records, of which none has a time to believe

    @property
    def rows(self) -> int:
        return self.good + sum(self.reasons.values())

    def discard(self, lake: Lake, days: frozenset[int]) -> None:
        """Take back what was written of these days of `interactions`."""
        filesystem, root = lake.filesystem(INTERACTIONS)
        names = {day_name(day) for day in days}
        for path in list(self.parts[INTERACTIONS]):
            if path.split("/")[0].removeprefix("event_date=") in names:
                filesystem.delete_file(f"{root}/{path}")
                del self.parts[INTERACTIONS][path]
        for name in names:
            self.per_day.pop(name, None)


class Engine:
    """Reads and sessionizes any choice of the landing's files."""

    def __init__(self, job: Job, files: Mapping[str, Path], videos: frozenset[str]) -> None:
        from mealrec.sources.landing import day_in, is_served

        self.job, self.config = job, job.config.sessionize
        self.names = list(files)
        self.paths = [str(path) for path in files.values()]
        self.number = {name: n for n, name in enumerate(self.names)}
        days = [day_in(name) for name in self.names]
        self.file_days = [NO_DAY if day is None else day_number(day) for day in days]
        self.served = frozenset(n for name, n in self.number.items() if is_served(name))
        self.columns = Columns(job.config.source.columns)
        # a million identifiers would be sent with every task otherwise
        self.videos = job.spark.broadcast(sorted(videos))

    def whole(self) -> Made:
        """Everything from every file."""
        reading = self._reading(self.names, tasks.Wanted())
        return self._write(reading, None, frozenset(), self.paths, len(self.names))

    def days_of(self, names: Sequence[str]) -> dict[str, frozenset[int]]:
        """Days that the records of each file fall on."""
        reading = self._reading(names, tasks.Wanted())
        found: dict[str, set[int]] = {name: set() for name in names}
        if names:
            for file, day in self._numbers(reading).mapPartitions(partial(tasks.days_of, reading)).collect():
                found[self.names[file]].add(day)
        return {name: frozenset(days) for name, days in found.items()}

    def days(
        self, fresh: Sequence[str], reread: Sequence[str], touched: frozenset[int], beside: Neighbours, version: int
    ) -> Made:
        """The touched days from the files, the neighbours' sessions from version `version` of the table."""
        undated = frozenset(self.number[name] for name in fresh)
        names = sorted({*fresh, *reread})
        reading = self._reading(names, tasks.Wanted(touched, undated))
        paths = [self.paths[self.number[name]] for name in names]
        return self._write(reading, self._context(beside, version), beside.trusted, paths, len(names))

    def _reading(self, names: Sequence[str], wanted: tasks.Wanted) -> tasks.Reading:
        numbers = [self.number[name] for name in names]
        parts = units.parts_of([self.paths[n] for n in numbers], numbers, self._count_lines)
        variable = self.config.viewer_key_variable
        _key(variable)  # here already: without one no task need start
        from_content = self.columns.rules["event_id"].from_content
        rules = partial(_rules, self.config, self.videos, self.file_days, from_content, variable, self.served)
        return tasks.Reading(units.units_of(parts), self.columns, rules, wanted)

    def _numbers(self, reading: tasks.Reading) -> RDD[int]:
        count = len(reading.units)
        return self.job.spark.parallelize(range(count), max(count, 1))

    def _count_lines(self, parts: Sequence[Part]) -> list[int]:
        return self.job.spark.parallelize(parts, len(parts)).map(units.lines_in).collect()

    def _context(self, beside: Neighbours, version: int) -> tasks.Context:
        """Whole days after, the last minutes of trusted ones."""
        since = dict.fromkeys(beside.after, 0) | dict(beside.since_ms)
        days = {path: day_number(tasks.day_of(path)) for path in self.job.lake.files(INTERACTIONS, version)}
        return tasks.Context(self.job.lake, {path: since[day] for path, day in days.items() if day in since})

    def _write(
        self,
        reading: tasks.Reading,
        context: tasks.Context | None,
        trusted: frozenset[int],
        paths: Sequence[str],
        files: int,
    ) -> Made:
        spark = self.job.spark
        places = units.shuffle_partitions(paths, self.job.config.spark.shuffle_partitions, spark.defaultParallelism)
        pieces = self._numbers(reading).mapPartitions(partial(tasks.read, reading, places))
        if context is not None and context.since_ms:
            beside = spark.parallelize(list(context.since_ms), len(context.since_ms))
            pieces = pieces.union(beside.mapPartitions(partial(context.read, places)))
        writing = tasks.Writing(self.job.lake, self.config, self.names, self.file_days, trusted)
        # a place is its partition's number
        said = pieces.partitionBy(places, int).mapPartitions(partial(tasks.write, writing))
        with followed(self.job):
            lines = said.collect()
        return self._made(lines, files)

    def _made(self, lines: Sequence[tasks.Said], files: int) -> Made:
        parts: dict[str, dict[str, int]] = {INTERACTIONS: {}, QUARANTINE: {}}
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("reason", "day", "moved", "file")}
        more: dict[str, list[int]] = {}
        for kind, name, rows, said in lines:
            if kind in parts:
                parts[kind][name] = rows
            elif kind == "day_more":
                sessions, positive = json.loads(said or "[0, 0]")
                held = more.setdefault(name, [0, 0])
                more[name] = [held[0] + sessions, held[1] + positive]
            else:
                counts[kind][name] += rows
        days_of_file: dict[str, set[int]] = {name: set() for name in self.names}
        for pair in counts["file"]:
            number, _, day = pair.partition(":")
            if day:
                days_of_file[self.names[int(number)]].add(day_number(day))
        read = {self.names[int(pair.partition(":")[0])] for pair in counts["file"]}
        reasons = dict(sorted(counts["reason"].items()))
        return Made(
            parts=parts,
            reasons=reasons,
            good=sum(counts["file"].values()) - sum(reasons.values()),
            days_written=frozenset(map(day_number, counts["day"])),
            per_day={day: (s, p) for day, (s, p) in more.items()},
            moved=frozenset(day_number(day) for day, rows in counts["moved"].items() if rows),
            days_of_file={name: frozenset(days) for name, days in days_of_file.items()},
            files=files,
            unreadable=frozenset(name for name in read if not days_of_file[name]),
        )


def _rules(config, videos, file_days, from_content, variable, served) -> Rules:  # type: ignore[no-untyped-def]
    """Made in the task: neither the catalogue nor the key travels with it."""
    return Rules(config, frozenset(videos.value), file_days, from_content, _key(variable), served)


def _key(variable: str | None) -> bytes | None:
    """Raises ValueError, without the value, where the key is absent or short."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").encode()
    if len(key) < 16:
        raise ValueError(
            f"sessionize.viewer_key_variable={variable!r}: the environment variable holds no key of at least 16 bytes"
        )
    return key
