"""Raw event files to Arrow batches of one form (RECORD), whatever their format: JSONL, CSV, Parquet; text also gzipped.

Schema drift by rule: a field that is absent is null, a field that nobody asked for is left out (its record's payload keeps
it), order means nothing (CSV goes by its header), a number may be text and text a number; what can't be read as its type makes
the record a reject and not the file. Memory: one block of a file.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from mealrec.config import ColumnRule
from mealrec.schema import EVENT_COLUMNS
from mealrec.sources.identifiers import of_number
from spark_jobs.values import NUMBERS, TEXTS, Mask, Typed, clock, integers, texts

BLOCK_BYTES = 4 * 2**20
BATCH_ROWS = 65_536
CONSTANTS = {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}  # Python and others write them, JSON has none
ODD_NUMBERS = re.compile(rb"[:\[,\s](-?Inf|-NaN)[,\]}\s]")  # numbers for Arrow, and for nobody else
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
        return ", ".join(sorted(name for name in set(self.theirs.values()) if names.count(name) > 1))

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
            yield from _jsonl(part, columns, max_line_bytes)
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


def _jsonl(part: Part, columns: Columns, max_line_bytes: int) -> Iterator[pa.RecordBatch]:
    number = part.first
    for block, cut in blocks(part, max_line_bytes):
        if part.start == 0 and number == part.first and not (block := block.removeprefix(BOM_UTF8)):
            continue
        if cut:
            yield oversize_line(number, block, max_line_bytes)
            number += 1
            continue
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        batch = _strict(block, lines, number, columns, max_line_bytes)
        yield batch if batch is not None else _lenient(lines, number, columns, max_line_bytes)
        number += len(lines)


def oversize_line(number: int, block: bytes, limit: int) -> pa.RecordBatch:
    row = (number, block[:limit].decode("utf-8", "replace"), f"oversize: the line is longer than {limit} bytes")
    return broken([row])


def _strict(
    block: bytes, lines: list[bytes], first: int, columns: Columns, max_line_bytes: int
) -> pa.RecordBatch | None:
    """The block by Arrow's own parser, four times as fast as line by line; None where it takes exception to any line, or where
    its rows are not just the lines."""
    if b"}{" in block or b"} {" in block or not all(t[:1] == b"{" and t[-1:] == b"}" for t in lines):
        return None
    if max(map(len, lines)) > max_line_bytes:
        return None
    if (b"Inf" in block or b"-NaN" in block) and ODD_NUMBERS.search(block):
        return None
    schema = pa.schema({theirs: pa.string() if n in TEXTS else pa.int64() for n, theirs in columns.theirs.items()})
    try:
        payload = pa.array(lines, pa.binary()).cast(pa.string())  # fails where it is not UTF-8
        table = pajson.read_json(
            pa.BufferReader(block),
            read_options=pajson.ReadOptions(use_threads=False, block_size=len(block) + 1),
            parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ).combine_chunks()
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(lines):
        return None
    found = {name: whole(table[name]) for name in schema.names}
    return columns.record(found, payload, pa.array(range(first, first + len(lines)), pa.int64()))


def whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _lenient(lines: list[bytes], first: int, columns: Columns, max_line_bytes: int) -> pa.RecordBatch:
    """Line by line: whatever is not an object in UTF-8 becomes a broken row, blank lines nothing."""
    good: list[tuple[int, str, dict[str, Any]]] = []
    bad: list[tuple[int | None, str | None, str]] = []
    for number, raw in enumerate(lines, start=first):
        if not raw.strip():
            continue
        raw = raw.rstrip(b"\r")
        text = raw.decode("utf-8", "replace")
        if len(raw) > max_line_bytes:
            bad.append((number, text[:max_line_bytes], f"oversize: the line is longer than {max_line_bytes} bytes"))
            continue
        record = _object(raw)
        if record is None:
            bad.append((number, text, "the line is not a JSON object in UTF-8"))
        else:
            good.append((number, text, record))
    found: dict[str, pa.Array] = {}
    nested: dict[str, Mask] = {}
    for name in set(columns.theirs.values()):
        texts, odd = _texts([record.get(name) for _, _, record in good])
        found[name] = pa.array(texts, pa.string())
        if odd:
            nested[name] = np.isin(np.arange(len(good)), odd)
    payload, numbers = [text for _, text, _ in good], [number for number, _, _ in good]
    batch = columns.record(found, pa.array(payload, pa.string()), pa.array(numbers, pa.int64()), nested)
    return pa.concat_batches([batch, broken(bad)]) if bad else batch


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        # numbers stay the text they were written as, so that an identifier 1e3 is not 1000.0
        found = json.loads(line.decode(), parse_int=str, parse_float=of_number, parse_constant=CONSTANTS.get)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    return found if isinstance(found, dict) else None


def _texts(values: Sequence[Any]) -> tuple[list[str | None], list[int]]:
    """Values of a field of JSON as text, and which of them are none: objects and lists, text with half a character."""
    out, odd = list(values), []
    for at, value in enumerate(values):
        if value is None or (isinstance(value, str) and value.isascii()):
            continue
        out[at] = value.encode("utf-8", "replace").decode() if isinstance(value, str) else json.dumps(value)
        if out[at] != value and not isinstance(value, bool):
            odd.append(at)
    return out, odd


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
