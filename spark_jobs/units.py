"""Event files cut into what one task reads: large text files by lines, Parquet by row groups, small files together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from spark_jobs.records import Part

SPLIT_BYTES = 128 * 2**20  # of a text file; a gzipped or CSV file is never cut (a CSV's lines may be in quotes)
UNIT_BYTES = 32 * 2**20
SHUFFLE_BYTES = 160 * 2**20  # of records a shuffle partition
EXPANDS = {".parquet": 5.0, ".gz": 5.0}  # a byte of these is about so many of a record in text

CountLines = Callable[[Sequence[Part]], Sequence[int]]


def parts_of(paths: Sequence[str], numbers: Sequence[int], count_lines: CountLines) -> list[Part]:
    """Parts of the files; numbers: their places among all files. Parts of one large text file need to know how many lines came
    before them: count_lines counts them, in parallel."""
    parts: list[Part] = []
    for path, number in zip(paths, numbers, strict=True):
        parts += _parquet(path, number) if path.endswith(".parquet") else _text(path, number)
    return _numbered(parts, count_lines)


def _parquet(path: str, number: int) -> list[Part]:
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return [Part(number, path, 0, 1, 1)]  # the task that reads it says what is wrong
    parts, first, begin, size = [], 1, 0, 0
    rows = 0
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group)
        size, rows = size + found.total_byte_size, rows + found.num_rows
        if size >= UNIT_BYTES * 2 or group == metadata.num_row_groups - 1:
            parts.append(Part(number, path, begin, group + 1, first))
            begin, first, rows, size = group + 1, first + rows, 0, 0
    return parts


def _text(path: str, number: int) -> list[Part]:
    size = Path(path).stat().st_size
    if size <= SPLIT_BYTES or path.endswith((".gz", ".csv")):
        return [Part(number, path, 0, size, 1)]
    edges = [0]
    with Path(path).open("rb") as file:
        for target in range(SPLIT_BYTES, size, SPLIT_BYTES):
            file.seek(target)
            file.readline()
            edges.append(min(file.tell(), size))
    edges = sorted({*edges, size})
    return [Part(number, path, begin, end, 0) for begin, end in pairwise(edges)]


def _numbered(parts: list[Part], count_lines: CountLines) -> list[Part]:
    open_ = [part for part in parts if part.first == 0]
    if not open_:
        return parts
    lines = dict(zip(open_, count_lines(open_), strict=True))
    out, following = [], 1
    for part in parts:
        following = 1 if part.start == 0 else following
        out.append(part if part.first else Part(part.file, part.path, part.start, part.end, following))
        following += lines.get(part, 0)
    return out


def lines_in(part: Part) -> int:
    """Line ends in the part's bytes."""
    count, left = 0, part.end - part.start
    with Path(part.path).open("rb") as file:
        file.seek(part.start)
        while left and (data := file.read(min(left, 4 * 2**20))):
            count, left = count + data.count(b"\n"), left - len(data)
    return count


def units_of(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that one task reads, in order."""
    units: list[list[Part]] = []
    room = 0.0
    for part in parts:
        size = _weight(part)
        if not units or size > room:
            units.append([])
            room = UNIT_BYTES
        units[-1].append(part)
        room -= size
    return units


def shuffle_partitions(paths: Sequence[str], least: int, cores: int) -> int:
    """Of more than one round a whole number, so that no core idles in the last."""
    return partitions_of(sum(Path(p).stat().st_size * EXPANDS.get(Path(p).suffix, 1.0) for p in paths), least, cores)


def partitions_of(size: float, least: int, cores: int) -> int:
    """For so many bytes of records."""
    count = max(least, math.ceil(size / SHUFFLE_BYTES))
    return count if count <= cores else math.ceil(count / cores) * cores


def _weight(part: Part) -> float:
    if part.path.endswith(".parquet"):
        return UNIT_BYTES / 2
    return (part.end - part.start) * EXPANDS.get(Path(part.path).suffix, 1.0)
