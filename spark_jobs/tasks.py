"""What Spark's tasks do: read and judge parts of files on one side of the shuffle, label and write on the other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec.config import SessionizeConfig
from mealrec.lake import Lake
from mealrec.schema import INTERACTIONS, QUARANTINE
from spark_jobs import outcome
from spark_jobs.parts import Parts
from spark_jobs.records import Columns, Part, records
from spark_jobs.sessionize import Before, label
from spark_jobs.shuffle import Piece, in_order, scattered
from spark_jobs.validate import JUDGED, Rules, day_name, day_number, judge

LABELLED_ROWS = 65_536  # at a time: what numpy goes through stays in the cache
OURS = Columns({})  # of the endpoint's journal, whatever the team's own log calls its fields
NO_TIME = -(2**31)
# what a writing task says: kind is a table (name: a path), reason, day, moved or file; name; rows; more
Said = tuple[str, str, int, str | None]


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

    def judged(self, numbers: Iterable[int]) -> Iterator[tuple[Part, pa.RecordBatch]]:
        rules = self.rules()
        for number in numbers:
            for part in self.units[number]:
                columns = OURS if part.file in rules.served else self.columns
                for rows in records(part, columns, rules.config.max_line_bytes):
                    yield part, judge(rows, part.file, rules)


def read(reading: Reading, places: int, numbers: Iterable[int]) -> Iterator[tuple[int, Piece]]:
    """JUDGED rows that are wanted, ready for the shuffle."""
    chosen = (reading.wanted.of(rows, part.file) for part, rows in reading.judged(numbers))
    return scattered((rows for rows in chosen if rows.num_rows), places)


def days_of(reading: Reading, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(file, day): days that the records of each file fall on."""
    found: set[tuple[int, int]] = set()
    for part, rows in reading.judged(numbers):
        found |= {(part.file, day) for day in pc.unique(rows.column("day").drop_null()).to_pylist()}
    return iter(found)


@dataclass(frozen=True)
class Context:
    """Rows of `interactions` that lie beside what is made anew. since_ms: of each file, the first time that matters."""

    lake: Lake
    since_ms: Mapping[str, int]

    def read(self, places: int, paths: Iterable[str]) -> Iterator[tuple[int, Piece]]:
        return scattered((rows for path in paths for rows in self._judged(path) if rows.num_rows), places)

    def _judged(self, path: str) -> Iterator[pa.RecordBatch]:
        filesystem, root = self.lake.filesystem(INTERACTIONS)
        day = day_number(day_of(path))
        with pq.ParquetFile(filesystem.open_input_file(f"{root}/{path}")) as file:
            for batch in file.iter_batches():
                rows = batch.filter(pc.field("timestamp_ms") >= self.since_ms[path])
                held = {name: rows.column(name) for name in rows.schema.names}
                held |= {"day": pa.repeat(pa.scalar(day, pa.int32()), len(rows))}
                held |= {"start_ms": held["session_start_ms"], "position": held["session_position"]}
                columns = [held.get(f.name, pa.nulls(len(rows), f.type)).cast(f.type) for f in JUDGED]
                yield pa.RecordBatch.from_arrays(columns, schema=JUDGED)


@dataclass(frozen=True)
class Writing:
    """How a task turns JUDGED pieces into parts. trusted: see spark_jobs.sessionize.label; their rows are not written."""

    lake: Lake
    config: SessionizeConfig
    names: Sequence[str]
    file_days: Sequence[int]
    trusted: frozenset[int] = frozenset()


def write(writing: Writing, pieces: Iterable[tuple[int, Piece]]) -> Iterator[Said]:
    """Everything a driver needs to commit the task's parts and to count them. Of a task that fails no part stays."""
    done = _Written(writing)
    before: dict[str, Before] = {}
    try:
        for rows in in_order(piece for _, piece in pieces):
            tables = label(rows.to_batches(max_chunksize=LABELLED_ROWS), writing.config, writing.trusted, before)
            done.take(pa.concat_tables(tables).combine_chunks())
        return iter(done.said())
    except Exception:
        done.discard()
        raise


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
        own = rows.select(["file", "day"]).filter(pc.is_valid(rows["file"]))
        for found in own.group_by(["file", "day"], use_threads=False).aggregate([([], "count_all")]).to_pylist():
            day = "" if found["day"] is None else day_name(found["day"])
            self.counts["file", f"{found['file']}:{day}"] += found["count_all"]

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

    def discard(self) -> None:
        self.good.discard()
        self.bad.discard()

    def said(self) -> list[Said]:
        self.good.close()
        self.bad.close()
        lines: list[Said] = [(kind, name, rows, None) for (kind, name), rows in self.counts.items()]
        lines += [(INTERACTIONS, path, rows, None) for path, rows in self.good.paths.items()]
        lines += [(QUARANTINE, path, rows, None) for path, rows in self.bad.paths.items()]
        lines += [("day_more", day, 0, json.dumps([self.sessions[day], self.positive[day]])) for day in self.sessions]
        return lines


def day_of(path: str) -> str:
    """UTC day of a file of `interactions`."""
    return path.split("/")[0].removeprefix("event_date=")
