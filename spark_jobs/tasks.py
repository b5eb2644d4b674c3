"""What Spark's tasks do: read and judge parts of files on one side of the shuffle, label and write on the other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.config import SessionizeConfig
from mealrec.lake import Lake
from mealrec.schema import INTERACTIONS, QUARANTINE
from spark_jobs import outcome
from spark_jobs.parts import Parts
from spark_jobs.records import Columns, Part, records
from spark_jobs.sessionize import label
from spark_jobs.validate import JUDGED, Rules, day_name, judge

FLUSH_ROWS = 400_000
NO_TIME = -(2**31)
DAYS_FOUND = "file int, day int"
# what a writing task says: kind is a table (name: a path), reason, day, moved or file
SAID = "kind string, name string, rows bigint, more string"
Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Wanted:
    """Which records of the files count. days None: all; else those of these days, and undated ones of the `undated` files."""

    days: frozenset[int] | None = None
    undated: frozenset[int] = frozenset()

    def of(self, batch: pa.RecordBatch, file: int) -> pa.RecordBatch:
        if self.days is None:
            return batch
        day = batch.column("day")
        chosen = np.isin(np.asarray(day.fill_null(NO_TIME)), list(self.days)) & np.asarray(day.is_valid())
        if file in self.undated:
            chosen |= np.asarray(day.is_null())
        return batch.filter(pa.array(chosen))


@dataclass(frozen=True)
class Reading:
    """How a task turns numbers of units (parts that one task reads) into JUDGED batches."""

    units: Sequence[Sequence[Part]]
    columns: Columns
    rules: Callable[[], Rules]
    wanted: Wanted = field(default_factory=Wanted)

    def judged(self, numbers: Batches) -> Iterator[tuple[Part, pa.RecordBatch]]:
        rules = self.rules()
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                for part in self.units[number]:
                    for rows in records(part, self.columns, rules.config.max_line_bytes):
                        yield part, judge(rows, part.file, rules)


def read(reading: Reading, numbers: Batches) -> Batches:
    """JUDGED rows that are wanted."""
    for part, rows in reading.judged(numbers):
        chosen = reading.wanted.of(rows, part.file)
        if chosen.num_rows:
            yield chosen


def days_of(reading: Reading, numbers: Batches) -> Batches:
    """DAYS_FOUND: days that each file's records fall on; null where a file has undated ones."""
    found: set[tuple[int, int | None]] = set()
    for part, rows in reading.judged(numbers):
        found |= {(part.file, day) for day in pc.unique(rows.column("day")).to_pylist()}
    files, days = zip(*found, strict=True) if found else ((), ())
    yield pa.RecordBatch.from_arrays([pa.array(files, pa.int32()), pa.array(days, pa.int32())], names=["file", "day"])


@dataclass(frozen=True)
class Writing:
    """How a task turns sorted JUDGED rows into parts. trusted: see spark_jobs.sessionize.label; their rows are not written."""

    lake: Lake
    config: SessionizeConfig
    names: Sequence[str]
    file_days: Sequence[int]
    trusted: frozenset[int] = frozenset()


def write(writing: Writing, batches: Batches) -> Batches:
    """SAID: everything a driver needs to commit the task's parts and to count them."""
    done = _Written(writing)
    waiting: list[pa.Table] = []
    for table in label(batches, writing.config, writing.trusted):
        waiting.append(table)
        if sum(len(t) for t in waiting) >= FLUSH_ROWS:
            done.take(pa.concat_tables(waiting).combine_chunks())
            waiting = []
    if waiting:
        done.take(pa.concat_tables(waiting).combine_chunks())
    yield done.said()


class _Written:
    def __init__(self, writing: Writing) -> None:
        self.writing = writing
        self.good, self.bad = Parts(writing.lake, INTERACTIONS), Parts(writing.lake, QUARANTINE)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.sessions: Counter[str] = Counter()
        self.positive: Counter[str] = Counter()

    def take(self, rows: pa.Table) -> None:
        if self.writing.trusted:
            known = pc.is_in(rows["day"], value_set=pa.array(sorted(self.writing.trusted), pa.int32()))
            # a record is never of a trusted day, only context is
            rows = rows.filter(pc.invert(known))
        self._count_files(rows)
        bad = rows["reason"].combine_chunks().is_valid()
        if pc.any(bad).as_py():
            self._reject(rows.filter(bad))
            rows = rows.filter(pc.invert(bad))
        if not len(rows):
            return
        days = np.asarray(rows["day"].combine_chunks())
        moved = np.asarray(rows["moved"].combine_chunks())
        made = outcome.interactions(rows, self.writing.config)
        order = np.argsort(days, kind="stable")  # a viewer's rows stay together and in order
        made, days, moved = made.take(pa.array(order)).combine_chunks(), days[order], moved[order]
        edges = np.flatnonzero(np.r_[True, days[1:] != days[:-1], True])
        for begin, end in pairwise(edges.tolist()):
            day, slice_ = day_name(int(days[begin])), made.slice(begin, end - begin)
            self.good.write({"event_date": day}, slice_)
            self.counts["day", day] += len(slice_)
            self.counts["moved", day] += int(moved[begin:end].sum())
            self.sessions[day] += pc.sum(pc.equal(slice_["session_position"], 0)).as_py()
            self.positive[day] += pc.sum(slice_["is_positive"]).as_py()

    def _count_files(self, rows: pa.Table) -> None:
        files = np.asarray(rows["file"].combine_chunks().fill_null(-1)).astype(np.int64)
        days = np.asarray(rows["day"].combine_chunks().fill_null(NO_TIME)).astype(np.int64)
        pairs, counts = np.unique(np.stack([files, days]), axis=1, return_counts=True)
        for file, day, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            if file >= 0:
                self.counts["file", f"{file}:{'' if day == NO_TIME else day_name(day)}"] += count

    def _reject(self, rows: pa.Table) -> None:
        for entry in pc.value_counts(rows["reason"].combine_chunks()).to_pylist():
            self.counts["reason", entry["values"]] += entry["counts"]
        made = outcome.rejects(rows, self.writing.names)
        where = [
            outcome.partition_of(day, self.writing.file_days[file])
            for day, file in zip(rows["day"].to_pylist(), rows["file"].to_pylist(), strict=True)
        ]
        for folder in sorted(set(where)):
            chosen = made.filter(pa.array([w == folder for w in where]))
            self.bad.write({"stage": "sessionize", "ingest_date": folder}, chosen)

    def said(self) -> pa.RecordBatch:
        self.good.close()
        self.bad.close()
        lines = [(kind, name, rows, None) for (kind, name), rows in self.counts.items()]
        lines += [(INTERACTIONS, path, rows, None) for path, rows in self.good.paths.items()]
        lines += [(QUARANTINE, path, rows, None) for path, rows in self.bad.paths.items()]
        lines += [("day_more", day, 0, json.dumps([self.sessions[day], self.positive[day]])) for day in self.sessions]
        kinds, names, rows, more = zip(*lines, strict=True) if lines else ((), (), (), ())
        columns = [pa.array(kinds, pa.string()), pa.array(names, pa.string())]
        return pa.RecordBatch.from_arrays(
            [*columns, pa.array(rows, pa.int64()), pa.array(more, pa.string())], names=["kind", "name", "rows", "more"]
        )


def reader(reading: Reading) -> Callable[[Batches], Batches]:
    return partial(read, reading)


JUDGED_DDL = ", ".join(
    f"{f.name} {'string' if f.type == pa.string() else 'bigint' if f.type == pa.int64() else 'int'}" for f in JUDGED
)
