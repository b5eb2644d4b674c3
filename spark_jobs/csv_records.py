"""CSV event files: fields by the header's names, quoted newlines, any order of columns, line numbers of the file.

Blocks whose lines are their records go through Arrow's parser. What it takes exception to, and blocks with line ends or quotes
within quotes, are read record by record, which takes several times as long. Memory: one block.

Cells are text or numbers, nobody knows: 12345.0 is the id 12345, as pandas writes one of a column with nulls.
A quote that nobody closes, or closes amid a cell, costs the line that it is in: the lines after it are read again.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from mealrec.sources.identifiers import of_cells
from spark_jobs import records as forms

if TYPE_CHECKING:
    from spark_jobs.records import Columns

NEVER_PLAIN = (b"\n\n", b"\n\r\n")  # in a block whose lines are its records
NOT_UTF8 = "the record is not UTF-8 text"
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
    """Lines for csv.reader, and blocks of whole lines. number: of the line that was taken last; raw, texts: lines of the record
    that is being read; odd: what is wrong with it; damage: what ended the file."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.chunks, self.limit = forms.chunks(file, None), limit
        self.held, self.at = b"", 0
        self.number, self.taken = 0, 0  # lines, bytes
        self.raw: list[bytes] = []
        self.texts: list[str] = []
        self.odd = ""
        self.damage: Exception | None = None

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
        self.texts.clear()
        self.odd = ""

    def keep_first(self) -> None:
        """The record is its first line alone: the others are taken next."""
        later = b"".join(self.raw[1:])
        start = self.at - len(later)
        if start >= 0 and self.held.startswith(later, start):
            self.at = start
        else:
            self.held, self.at = later + self.held[self.at :], 0
        self.taken, self.number = self.taken - len(later), self.number - len(self.raw) + 1
        del self.raw[1:], self.texts[1:]

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._line(self.limit + 1)
        if not line:
            raise StopIteration
        if self.number == 0:
            line = line.removeprefix(BOM_UTF8)
        self.number += 1
        if len(line) > self.limit and not line.endswith(b"\n"):
            self.odd = f"oversize: the line is longer than {self.limit} bytes"
            while (rest := self._line(2**20)) and not rest.endswith(b"\n"):
                pass
            self.raw.append(line + b"\n")  # still too long
            line = line[: self.limit].replace(b'"', b"") + b"\n"
        else:
            self.raw.append(line)
        self.texts.append(self._decoded(line))
        return self.texts[-1]

    def _decoded(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.odd = self.odd or NOT_UTF8
            return line.decode("utf-8", "replace")

    def _line(self, most: int) -> bytes:
        """Up to the next line end, but no more than so many bytes; empty at the end, and for a line that damage cut off."""
        while True:
            end = self.held.find(b"\n", self.at, self.at + most) + 1 or min(self.at + most, len(self.held))
            line = self.held[self.at : end]
            if line.endswith(b"\n") or len(line) == most or not self._hold_more():
                break
        if self.damage is not None and not line.endswith(b"\n"):
            return b""
        self.at, self.taken = end, self.taken + len(line)
        return line

    def _hold_more(self) -> bool:
        try:
            data = next(self.chunks, b"")
        except forms.DAMAGE as error:
            data, self.damage = b"", error
        self.held, self.at = self.held[self.at :] + data, 0
        return bool(data)


class _OneByOne:
    """Records by csv.reader. header: names of the columns, once they were read."""

    def __init__(self, lines: _Lines, columns: Columns) -> None:
        self.lines, self.columns, self.reader = lines, columns, csv.reader(lines, strict=True)
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
            row, fault = self._row()
            text = "".join(self.lines.texts).rstrip("\r\n")
            if row is None:
                self.is_over = True
            elif not self.header and (row or fault):
                if fault := self._begun(row, fault):
                    bad.append((number, text, f"{fault}: the file is left out"))
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
        if self.is_over and self.lines.damage is not None:
            raise self.lines.damage

    def _row(self) -> tuple[list[str] | None, str]:
        """Cells of the next record, None at the end, and what is wrong with it. Where its quotes are, nobody knows its end: it
        is one line, and the next begins a record."""
        self.lines.begin()
        try:
            return next(self.reader, None), self.lines.odd
        except csv.Error as error:
            self.lines.keep_first()
            return [], f"not CSV: {error}"

    def _begun(self, row: list[str], fault: str) -> str:
        """Takes the header, or says why it can't be."""
        header = [name.strip() for name in row]
        if fault == NOT_UTF8:  # what is not ours may be called anything
            theirs = set(self.columns.theirs.values()) - set(header)
            garbled = {_ascii(name) for name in header if not name.isascii()}
            ours = sorted(name for name in theirs if not name.isascii() and _ascii(name) in garbled)
            fault = f"the header is not UTF-8 text, and {', '.join(ours)} may be in it" if ours else ""
        if not fault and (twice := self.columns.twice(header)):
            fault = f"there are several columns {twice}"
        self.header = [] if fault else header
        return fault

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
                name: _plain_numbers(pa.array([cell or None for cell in column], pa.string()))
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
    found = {name: _plain_numbers(forms.whole(table[name])) for name in wanted}
    return columns.record(found, payload, pa.array(range(first, first + len(lines)), pa.int64()))


def _plain_numbers(column: pa.Array) -> pa.Array:
    """See identifiers.of_cells; a look at a column's bytes costs a tenth of one at its values."""
    data = column.buffers()[2]
    return column if data is None or b".0" not in data.to_pybytes() else of_cells(column)


def _ascii(name: str) -> str:
    return name.encode("ascii", "ignore").decode()


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
