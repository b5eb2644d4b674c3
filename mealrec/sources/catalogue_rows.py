"""A catalogue row by row, whatever is in it: for a file that has a row which is not good. Memory: a row; Parquet: the file."""

from __future__ import annotations

import csv
import json
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from mealrec.sources.errors import SourceError
from mealrec.sources.identifiers import as_text, of_number
from mealrec.sources.json_line import object_of

MAX_FIELD = 2**20  # bytes
MAX_LINE = 2**24  # bytes of a line; Arrow, whose block it is, takes no longer one either
Names = Mapping[str, str]
IS_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)


class Row(NamedTuple):
    """A row as it was found. line: 1-based; cells: by our names, text, None, or what is neither; wrong: why it is no record at
    all, which begins with `oversize` where it is too long."""

    line: int
    payload: str
    cells: dict[str, Any]
    wrong: str = ""


def rows_of(path: Path, theirs: Names) -> Iterator[Row]:
    """theirs: the file's names of all our fields. Raises SourceError for a CSV or Parquet file without a column of ids, or with
    one of ours twice."""
    return {".parquet": _parquet, ".csv": _csv}.get(path.suffix, _jsonl)(path, theirs)


def known_columns(path: Path, theirs: Names, there: list[str]) -> dict[str, str]:
    """Those of our fields that the file has, with its names. Raises SourceError without ids, or where one is named twice."""
    if theirs["video_id"] not in there:
        raise SourceError(f"{path}: no column {theirs['video_id']}; found {', '.join(there) or 'nothing'}")
    if twice := [name for name in theirs.values() if there.count(name) > 1]:
        raise SourceError(f"{path}: a column is named twice: {', '.join(twice)}")
    return {ours: name for ours, name in theirs.items() if name in there}


def _jsonl(path: Path, theirs: Names) -> Iterator[Row]:
    number = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            number += 1
            is_cut = len(line) == MAX_LINE and not line.endswith(b"\n")
            while is_cut and (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
            line = line.removeprefix(BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            found = None if is_cut else _object(line)
            wrong = f"oversize: the line is longer than {MAX_LINE} bytes" if is_cut else ""
            wrong = wrong or ("" if found is not None else "the line is not a JSON object in UTF-8")
            cells = {ours: (found or {}).get(name) for ours, name in theirs.items()}
            yield Row(number, line.rstrip(b"\r\n").decode("utf-8", "replace"), cells, wrong)


def _object(line: bytes) -> dict[str, Any] | None:
    found = object_of(line)
    if found is None:
        return None
    return {name: json.dumps(value) if isinstance(value, bool) else value for name, value in found.items()}


class _Lines:
    """Lines for csv.reader. number: of the line that was taken last; raw: lines of the record that is being read; wrong: what
    is wrong with it; later: lines that are read again."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.number, self.wrong = file, 0, ""
        self.raw: list[str] = []
        self.later: deque[str] = deque()

    def begin(self) -> None:
        """A record begins."""
        self.raw, self.wrong = [], ""

    def keep_first(self) -> None:
        """The record is its first line alone: the others are read next."""
        self.later.extendleft(reversed(self.raw[1:]))
        self.number -= len(self.raw) - 1
        del self.raw[1:]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.later.popleft() if self.later else self._line()
        if not line:
            raise StopIteration
        self.number += 1
        self.raw.append(line)
        if len(line) == MAX_LINE and not line.endswith("\n"):
            self.wrong = f"oversize: the line is longer than {MAX_LINE} characters"
        text = _shown_text(line)
        if text != line:
            self.wrong = self.wrong or "the record is not UTF-8 text"
        return text

    def _line(self) -> str:
        """The next line, but no more of it than MAX_LINE."""
        line = self.file.readline(MAX_LINE)
        if len(line) == MAX_LINE and not line.endswith("\n"):
            while (rest := self.file.readline(MAX_LINE)) and not rest.endswith("\n"):
                pass
        return line


def _shown_text(line: str) -> str:
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _csv(path: Path, theirs: Names) -> Iterator[Row]:
    """Where a record's quotes are broken nobody knows its end: it is one line, and the next begins a record, as in events."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file, _fields_as_long_as_ours():
        lines = _Lines(file)
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise SourceError(f"{path}: the header is not CSV: {error}") from None
        known = known_columns(path, theirs, header)
        while True:
            lines.begin()
            number = lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                is_long = len(lines.raw) == 1 and "field limit" in str(error)
                cells = []
                lines.keep_first()
                lines.wrong = (
                    f"oversize: a field is longer than {MAX_FIELD} characters" if is_long else f"not CSV: {error}"
                )
            if cells and not lines.wrong and len(cells) != len(header):
                lines.wrong = f"expected {len(header)} cells as in the header, found {len(cells)}"
            if cells or lines.wrong:  # else the line is blank
                values = dict(zip(header, cells, strict=False))
                found = {o: values.get(name) or None for o, name in known.items()}
                found["video_id"] = of_number(found["video_id"] or "") or None  # a number or text, nobody knows
                yield Row(number, _shown_text("".join(lines.raw)).rstrip("\r\n"), found, lines.wrong)


@contextmanager
def _fields_as_long_as_ours() -> Iterator[None]:
    before = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, theirs: Names) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        known = known_columns(path, theirs, file.schema_arrow.names)
        table = file.read(columns=list(known.values()))
    columns = {ours: _values(table[name]) for ours, name in known.items()}
    for at in range(table.num_rows):
        cells = {ours: column[at] for ours, column in columns.items()}
        payload = {known[ours]: cell for ours, cell in cells.items()}
        yield Row(at + 1, json.dumps(payload, ensure_ascii=False, default=_shown), cells)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Text, numbers as text; nested values and bytes that are no UTF-8 as they are."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type):
        return list(column.to_pylist())
    if not any(is_kind(column.type) for is_kind in IS_TEXT):
        return list(as_text(column).to_pylist())
    return [None if value is None else _decoded(value) for value in column.cast(pa.binary()).to_pylist()]


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _shown(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
