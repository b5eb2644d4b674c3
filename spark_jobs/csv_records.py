"""CSV event files: fields by the header's names, quoted newlines, any order of columns, line numbers of the file.

Blocks whose lines are their records go through Arrow's parser. What it takes exception to, and blocks with line ends or quotes
within quotes, are read record by record, which takes several times as long. Memory: one block.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from spark_jobs import records as forms

if TYPE_CHECKING:
    from spark_jobs.records import Columns

NEVER_PLAIN = (b"\0", "\ufffd".encode(), b"\n\n", b"\n\r\n")  # in a block whose lines are its records
QUOTE, COMMA, LINE_END = b'",\n'


def csv_records(file: BinaryIO, columns: Columns, max_line_bytes: int) -> Iterator[pa.RecordBatch]:
    """RECORD batches. A record with more or fewer cells than the header has is broken; an empty cell is null."""
    lines = _Lines(file, max_line_bytes)
    slowly = _OneByOne(lines, columns)
    while not slowly.is_over:
        block = lines.block() if slowly.header else b""
        batch = _plain(block, slowly.header, lines.number + 1, columns, max_line_bytes) if block else None
        if batch is None:
            yield from slowly.records(len(block))
        else:
            lines.skip(block, batch.num_rows)
            yield batch


class _Lines:
    """Lines for csv.reader, and blocks of whole lines. number: of the line that was taken last; raw: text of the record that is
    being read; odd: what is wrong with it."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.chunks, self.limit = forms.chunks(file, None), limit
        self.held, self.at = b"", 0
        self.number, self.taken = 0, 0  # lines, bytes
        self.raw: list[str] = []
        self.odd = ""

    def block(self) -> bytes:
        """All whole lines that are held, a chunk more where there are none; they are not taken yet."""
        if self.held.find(b"\n", self.at) < 0:
            self._hold_more()
        return self.held[self.at : self.held.rfind(b"\n", self.at) + 1]

    def skip(self, block: bytes, lines: int) -> None:
        self.at, self.taken, self.number = self.at + len(block), self.taken + len(block), self.number + lines

    def begin(self) -> None:
        """A record begins."""
        self.raw.clear()
        self.odd = ""

    def __iter__(self) -> Iterator[str]:
        while line := self._line(self.limit + 1):
            if len(line) > self.limit and not line.endswith(b"\n"):
                self.odd = f"oversize: the line is longer than {self.limit} bytes"
                while (rest := self._line(2**20)) and not rest.endswith(b"\n"):
                    pass
                line = line[: self.limit].replace(b'"', b"") + b"\n"
            text = line.decode("utf-8" if self.number else "utf-8-sig", "replace")
            self.number += 1
            if "\ufffd" in text:
                self.odd = self.odd or "the record is not UTF-8 text"
            self.raw.append(text)
            yield text.replace("\0", "\ufffd")

    def _line(self, most: int) -> bytes:
        """Up to the next line end, but no more than so many bytes; empty at the end of the file."""
        while True:
            end = self.held.find(b"\n", self.at, self.at + most) + 1 or min(self.at + most, len(self.held))
            line = self.held[self.at : end]
            if line.endswith(b"\n") or len(line) == most or not self._hold_more():
                self.at, self.taken = end, self.taken + len(line)
                return line

    def _hold_more(self) -> bool:
        data = next(self.chunks, b"")
        self.held, self.at = self.held[self.at :] + data, 0
        return bool(data)


class _OneByOne:
    """Records by csv.reader. header: names of the columns, once they were read."""

    def __init__(self, lines: _Lines, columns: Columns) -> None:
        self.lines, self.columns, self.reader = lines, columns, csv.reader(lines)
        self.header: list[str] = []
        self.is_over = False

    def records(self, size: int) -> Iterator[pa.RecordBatch]:
        """Those of so many bytes, and at least one; then the next begins a line."""
        start = self.lines.taken
        cells: list[list[str]] = []
        places: list[tuple[int, str]] = []
        bad: list[tuple[int | None, str | None, str]] = []
        while not self.is_over:
            number = self.lines.number + 1
            self.lines.begin()
            try:
                row = next(self.reader, None)
                fault = self.lines.odd
            except csv.Error as error:
                row, fault = [], f"not CSV: {error}"
            except forms.DAMAGE as error:
                yield from self._batches(cells, places, bad)
                raise error
            text = "".join(self.lines.raw).rstrip("\r\n")
            if row is None:
                self.is_over = True
            elif not self.header and row and not fault:
                self.header = [name.strip() for name in row]
                if len(set(self.header)) != len(self.header):
                    names = ",".join(self.header)
                    bad.append((number, text, f"a column is named twice in the header {names}: the file is left out"))
                    self.is_over = True
            elif fault := fault or self._fault(row):
                bad.append((number, text, fault))
            elif row:
                cells.append(row)
                places.append((number, text))
            if len(cells) + len(bad) >= forms.BATCH_ROWS // 4:
                yield from self._batches(cells, places, bad)
                cells, places, bad = [], [], []
            if self.lines.taken - start >= size:
                break
        yield from self._batches(cells, places, bad)

    def _fault(self, row: list[str]) -> str:
        if row and len(row) != len(self.header):
            return f"expected {len(self.header)} cells as in the header, found {len(row)}"
        return ""

    def _batches(
        self,
        cells: list[list[str]],
        places: list[tuple[int, str]],
        bad: list[tuple[int | None, str | None, str]],
    ) -> Iterator[pa.RecordBatch]:
        if cells:
            by_name = dict(zip(self.header, zip(*cells, strict=True), strict=True))
            found = {
                name: pa.array([cell or None for cell in column], pa.string())
                for name, column in by_name.items()
                if name in self.columns.theirs.values()
            }
            numbers, texts = zip(*places, strict=True)
            yield self.columns.record(found, pa.array(texts, pa.string()), pa.array(numbers, pa.int64()))
        if bad:
            yield forms.broken(bad)


def _plain(block: bytes, header: list[str], first: int, columns: Columns, max_line_bytes: int) -> pa.RecordBatch | None:
    """A block of whole lines by Arrow's parser; None where a line may not be a record, or not a good one."""
    if block[:1] in b"\r\n" or any(found in block for found in NEVER_PLAIN):
        return None
    if b"\r" in block:
        if block.count(b"\r") != block.count(b"\r\n"):
            return None
        block = block.replace(b"\r\n", b"\n")
    if not _is_quoted_plainly(block):
        return None
    lines = block[:-1].split(b"\n")
    if max(map(len, lines)) >= min(max_line_bytes, csv.field_size_limit()):
        return None
    wanted = [name for name in header if name in columns.theirs.values()]
    try:
        payload = pa.array(lines, pa.binary()).cast(pa.string())  # fails where it is not UTF-8
        table = pacsv.read_csv(
            pa.BufferReader(block),
            read_options=pacsv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=header),
            parse_options=pacsv.ParseOptions(double_quote=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    found = {name: forms.whole(table[name]) for name in wanted}
    return columns.record(found, payload, pa.array(range(first, first + len(lines)), pa.int64()))


def _is_quoted_plainly(block: bytes) -> bool:
    """Whether every quote begins or ends a whole cell, and none holds a line end or another quote."""
    if b'"' not in block:
        return True
    text = np.frombuffer(block, np.uint8)
    quotes = np.flatnonzero(text == QUOTE)
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening > 0, text[opening - 1], LINE_END)  # a block begins a line, and its last byte ends one
    ends = np.flatnonzero(text == LINE_END)
    return bool(
        np.isin(before, (COMMA, LINE_END)).all()
        and np.isin(text[closing + 1], (COMMA, LINE_END)).all()
        and np.array_equal(np.searchsorted(ends, opening), np.searchsorted(ends, closing))
    )
