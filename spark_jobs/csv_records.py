"""CSV event files: fields by the header's names, quoted newlines, any order of columns, line numbers of the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import pyarrow as pa

from spark_jobs import records as forms

if TYPE_CHECKING:
    from spark_jobs.records import Columns

Bad = list[tuple[int | None, str | None, str]]


class _Lines:
    """Lines for csv.reader; keeps the raw text of the record that is being read."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.limit, self.taken, self.odd = file, limit, [""][:0], ""

    def __iter__(self) -> Iterator[str]:
        first = True
        while raw := self.file.readline(self.limit + 1):
            if len(raw) > self.limit and not raw.endswith(b"\n"):
                self.odd = f"oversize: the line is longer than {self.limit} bytes"
                while (rest := self.file.readline(2**20)) and not rest.endswith(b"\n"):
                    pass
                raw = raw[: self.limit].replace(b'"', b"") + b"\n"
            text = raw.decode("utf-8-sig" if first else "utf-8", "replace")
            first = False
            if "\ufffd" in text:
                self.odd = self.odd or "the record is not UTF-8 text"
            self.taken.append(text)
            yield text.replace("\0", "\ufffd")


def csv_records(file: BinaryIO, columns: Columns, max_line_bytes: int) -> Iterator[pa.RecordBatch]:
    """RECORD batches. A record with more or fewer cells than the header has is broken; an empty cell is null."""
    lines = _Lines(file, max_line_bytes)
    reader = csv.reader(lines)
    header: list[str] | None = None
    cells: list[list[str]] = []
    places: list[tuple[int, str]] = []
    bad: Bad = []
    begins = 1
    while True:
        lines.taken.clear()
        lines.odd = ""
        try:
            row = next(reader, None)
            fault = lines.odd
        except csv.Error as error:
            row, fault = [], f"not CSV: {error}"
        except forms.DAMAGE as error:
            yield from _flush(header or [], cells, places, bad, columns)
            raise error
        number, begins = begins, reader.line_num + 1
        text = "".join(lines.taken).rstrip("\r\n")
        if row is None:
            break
        if header is None and not fault and row:
            header = [name.strip() for name in row]
            fault_of_header = _fault_of_header(header)
            if fault_of_header:
                bad.append((number, text, fault_of_header))
                break
            continue
        if not row and not fault:
            continue
        if not fault and len(row) != len(header or []):
            fault = f"expected {len(header or [])} cells as in the header, found {len(row)}"
        if fault:
            bad.append((number, text, fault))
        else:
            cells.append(row)
            places.append((number, text))
        if len(cells) + len(bad) >= forms.BATCH_ROWS // 4:
            yield from _flush(header or [], cells, places, bad, columns)
            cells, places, bad = [], [], []
    yield from _flush(header or [], cells, places, bad, columns)


def _fault_of_header(header: list[str]) -> str | None:
    if len(set(header)) != len(header):
        return f"a column is named twice in the header {','.join(header)}: the file is left out"
    return None


def _flush(
    header: list[str], cells: list[list[str]], places: list[tuple[int, str]], bad: Bad, columns: Columns
) -> Iterator[pa.RecordBatch]:
    if cells:
        by_column = list(zip(*cells, strict=True))
        wanted = set(columns.theirs.values())
        found = {
            name: pa.array([cell or None for cell in by_column[at]], pa.string())
            for at, name in enumerate(header)
            if name in wanted
        }
        payload = pa.array([text for _, text in places], pa.string())
        yield columns.record(found, payload, pa.array([number for number, _ in places], pa.int64()))
    if bad:
        yield forms.broken(bad)
