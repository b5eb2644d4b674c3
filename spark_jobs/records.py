"""Raw event files to Arrow batches of one form (RECORD), whatever their format: JSONL, CSV, Parquet; text also gzipped.

Schema drift by rule: a field that is absent is null, a field that nobody asked for is left out (its record's payload keeps
it), order means nothing (CSV goes by its header), a number may be text and text a number; what can't be read as its type makes
the record a reject and not the file. Memory: one block of a file.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from mealrec.config import ColumnRule
from mealrec.schema import EVENT_COLUMNS
from spark_jobs.values import NUMBERS, TEXTS, Mask, Typed, clock, integers, texts

BLOCK_BYTES = 4 * 2**20
BATCH_ROWS = 65_536
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error)  # of a gzipped file


class Damaged(Exception):
    """Arrow can't read a file on from here."""


RECORD = pa.schema(
    [
        *[(name, pa.string()) for name in TEXTS],
        *[(name, pa.int64()) for name in NUMBERS],
        ("wrong", pa.string()),  # names of the fields that hold something else than they should
        ("broken", pa.string()),  # why this is no record at all
        ("payload", pa.string()),
        ("line", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Part:
    """What one task reads of one file: bytes [start, end) of a text file, row groups [start, end) of Parquet. first: number of
    its first line or row, 1-based. file: the file's place among all files."""

    file: int
    path: str
    start: int
    end: int
    first: int


class Columns:
    """Where our fields stand in a log, by the rules of source.columns. theirs: of fields that are read, the log's own name."""

    def __init__(self, rules: Mapping[str, ColumnRule]) -> None:
        self.rules = {name: rules.get(name, ColumnRule()) for name in EVENT_COLUMNS}
        read = {name: rule for name, rule in self.rules.items() if rule.constant is None and not rule.from_content}
        self.theirs = {name: rule.name or name for name, rule in read.items()}

    def twice(self, names: Sequence[str]) -> str:
        """Which of a file's columns we'd read, but it has several of: none is known to be the one."""
        wanted = {name if name in names else name.split(".")[0] for name in self.theirs.values()}
        return ", ".join(sorted(name for name in wanted if names.count(name) > 1))

    def record(
        self,
        found: Mapping[str, pa.Array],
        payload: pa.Array,
        lines: pa.Array,
        nested: Mapping[str, Mask] | None = None,
    ) -> pa.RecordBatch:
        """RECORD from the columns that a file has, by the log's own names. nested: where a column holds what is of the wrong
        type however it reads: objects and lists as their JSON, text that is none."""
        rows, out = len(lines), {}
        wrong: dict[str, Mask] = {}
        for name, rule in self.rules.items():
            theirs = self.theirs.get(name)
            column = pa.nulls(rows, pa.string()) if theirs not in found else found[theirs]
            if rule.constant is not None:
                column = pa.repeat(pa.scalar(rule.constant), rows)
            values, bad = _typed(name, column, rule)
            out["timestamp_ms" if name == "timestamp" else name] = values
            if masks := [np.asarray(mask) for mask in (bad, (nested or {}).get(theirs)) if mask is not None]:
                wrong[name] = np.logical_or.reduce(masks)
        out["wrong"] = _named(wrong, rows)
        out |= {"broken": pa.nulls(rows, pa.string()), "payload": payload, "line": lines}
        return pa.RecordBatch.from_arrays([out[name] for name in RECORD.names], schema=RECORD)


def records(part: Part, columns: Columns, max_line_bytes: int) -> Iterator[pa.RecordBatch]:
    """Every record of a part, damaged ones too. What ends early (a damaged gzip or Parquet file) gives what was read, and one
    row that says so."""
    name = part.path.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            from spark_jobs.parquet_records import parquet_records

            yield from parquet_records(part, columns)
        elif name.endswith(".csv"):
            from spark_jobs.csv_records import csv_records

            with _opened(part.path) as file:
                yield from csv_records(file, columns, max_line_bytes)
        else:
            from spark_jobs.jsonl_records import jsonl_records

            yield from jsonl_records(part, columns, max_line_bytes)
    except (*DAMAGE, Damaged) as error:
        yield broken([(None, None, f"the file is damaged from here on: {error}")])


def broken(rows: Sequence[tuple[int | None, str | None, str]]) -> pa.RecordBatch:
    """Rows that are no records: (line, payload, why)."""
    lines, payload, why = zip(*rows, strict=True)
    out: dict[str, pa.Array] = {f.name: pa.nulls(len(rows), f.type) for f in RECORD}
    out |= {"line": pa.array(lines, pa.int64()), "payload": pa.array(payload, pa.string()), "broken": pa.array(why)}
    return pa.RecordBatch.from_arrays([out[name] for name in RECORD.names], schema=RECORD)


def _opened(path: str) -> BinaryIO:
    return gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb")  # type: ignore[return-value]


def blocks(part: Part, max_line_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """The part's bytes in blocks of whole lines. A line that passes the limit comes cut short and by itself, marked True."""
    whole = part.path.endswith(".gz")
    with _opened(part.path) as file:
        if not whole:
            file.seek(part.start)
        held, skipping = b"", False
        for data in chunks(file, None if whole else part.end - part.start):
            if skipping:
                at = data.find(b"\n")
                if at < 0:
                    continue
                data, skipping = data[at + 1 :], False
            held += data
            end = held.rfind(b"\n") + 1
            if end:
                yield held[:end], False
                held = held[end:]
            if len(held) > max_line_bytes:
                yield held[:max_line_bytes], True
                held, skipping = b"", True
        if held:
            yield held, False


def chunks(file: BinaryIO, left: int | None) -> Iterator[bytes]:
    """left: bytes to read, None for a gzipped file to its end. What was read before the damage comes before the error."""
    if left is not None:
        while left and (data := file.read(min(BLOCK_BYTES, left))):
            left -= len(data)
            yield data
        return
    held: list[bytes] = []
    damage: Exception | None = None
    while damage is None:
        try:
            data = file.read1(BLOCK_BYTES)  # type: ignore[attr-defined]
        except DAMAGE as error:
            data, damage = b"", error
        held.append(data)
        if not data or sum(map(len, held)) >= BLOCK_BYTES:
            yield b"".join(held)
            held = []
        if not data:
            break
    if damage is not None:
        raise damage


def oversize_line(number: int, block: bytes, limit: int) -> pa.RecordBatch:
    row = (number, block[:limit].decode("utf-8", "replace"), f"oversize: the line is longer than {limit} bytes")
    return broken([row])


def whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _typed(name: str, column: pa.Array, rule: ColumnRule) -> Typed:
    if name == "timestamp":
        return clock(column, rule.unit, rule.zone)
    if name not in TEXTS:
        return integers(column, rule.unit)
    values, bad = texts(column)
    return (_renamed(values, rule.values) if rule.values else values), bad


def _renamed(column: pa.Array, values: Mapping[str, str]) -> pa.Array:
    coded = column.dictionary_encode()
    names = [values.get(name, name) for name in coded.dictionary.to_pylist()]
    return pa.DictionaryArray.from_arrays(coded.indices, pa.array(names, pa.string())).dictionary_decode()


def _named(wrong: Mapping[str, Mask], rows: int) -> pa.Array:
    """Of each row the names of its wrong fields, null where there are none."""
    if not wrong:
        return pa.nulls(rows, pa.string())
    names: list[str | None] = [None] * rows
    for at in np.flatnonzero(np.any(list(wrong.values()), axis=0)).tolist():
        names[at] = ", ".join(name for name, mask in wrong.items() if mask[at])
    return pa.array(names, pa.string())
