"""Parquet event files: the columns that are ours, whatever their types. Memory: a batch.

Damage costs the rest of its row group. A healthy file that can't be reached is no damage: the error rises.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec.sources.identifiers import as_text
from spark_jobs import records as forms
from spark_jobs.values import Mask, bytes_of, is_text

if TYPE_CHECKING:
    from spark_jobs.records import Columns, Part

FAULTS = (pa.ArrowException, OSError)  # what Arrow raises for the content of a file, the second without an errno


def parquet_records(part: Part, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Every record of the part's row groups. Raises Damaged where the file can't be opened."""
    with _opened(part.path) as file:
        if twice := columns.twice(file.schema_arrow.names):
            if part.start == 0:
                yield forms.broken([(None, None, f"there are several columns {twice}: the file is left out")])
            return
        ours = sorted(set(columns.theirs.values()))  # those that the file lacks are left out
        number = part.first
        for groups in _together(file, range(part.start, min(part.end, file.num_row_groups))):
            yield from _of_groups(file, groups, number, ours, columns)
            number += _rows(file, groups)


def _opened(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True, coerce_int96_timestamp_unit="ms")
    except FAULTS as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> Exception:
    """Damaged, or the error itself where it is the system's."""
    return error if isinstance(error, OSError) and error.errno is not None else forms.Damaged(str(error))


def _together(file: pq.ParquetFile, groups: Sequence[int]) -> Iterator[list[int]]:
    """Row groups that fit one batch, or one larger group."""
    held: list[int] = []
    for group in groups:
        if held and _rows(file, [*held, group]) > forms.BATCH_ROWS:
            yield held
            held = []
        held.append(group)
    if held:
        yield held


def _rows(file: pq.ParquetFile, groups: Sequence[int]) -> int:
    return sum(file.metadata.row_group(group).num_rows for group in groups)


def _of_groups(
    file: pq.ParquetFile, groups: Sequence[int], first: int, ours: list[str], columns: Columns
) -> Iterator[pa.RecordBatch]:
    number = first
    try:
        for batch in _batches(file, groups, ours):
            yield _record(batch, number, _in_utc(file), columns)
            number += batch.num_rows
    except forms.Damaged as error:
        if len(groups) == 1:
            yield forms.broken([(number, None, f"from this row on row group {groups[0]} is damaged: {error}")])
            return
        for group in groups:  # they would have been one batch: nothing was given of them
            yield from _of_groups(file, [group], number, ours, columns)
            number += _rows(file, [group])


def _record(batch: pa.RecordBatch, first: int, in_utc: Collection[str], columns: Columns) -> pa.RecordBatch:
    found: dict[str, pa.Array] = {}
    nested: dict[str, Mask] = {}
    for name in set(columns.theirs.values()):
        if (column := _column(batch, name)) is None:
            continue
        if name in in_utc:
            column = column.cast(pa.timestamp("ms", "UTC"))
        found[name], mask = _plain(column)
        if mask is not None:
            nested[name] = mask
    lines = pa.array(range(first, first + batch.num_rows), pa.int64())
    return columns.record(found, pa.nulls(batch.num_rows, pa.string()), lines, nested)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    """The column of this name, or what its path with points leads to in structs; None where there is none."""
    if name in batch.schema.names:
        return batch.column(name)
    head, *path = name.split(".")
    column = batch.column(head) if path and head in batch.schema.names else None
    for part in path:
        if column is None or not pa.types.is_struct(column.type) or column.type.get_field_index(part) < 0:
            return None
        column = pc.struct_field(column, part)
    return column


def _in_utc(file: pq.ParquetFile) -> set[str]:
    """Columns of INT96, in which Spark, Hive and Impala write times: in UTC, though Arrow reads them as of no zone."""
    leaves = [file.schema.column(n) for n in range(len(file.schema))]
    return {leaf.path for leaf in leaves if leaf.physical_type == "INT96"}


def _batches(file: pq.ParquetFile, groups: Sequence[int], ours: list[str]) -> Iterator[pa.RecordBatch]:
    """Our columns as they are in the file. Raises Damaged; what one value does to us later is not the file's damage."""
    try:
        yield from file.iter_batches(forms.BATCH_ROWS, row_groups=groups, columns=ours)
    except FAULTS as error:
        raise _damaged(error) from error


def _plain(column: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Without dictionaries and with UUIDs as text. Nested values, and text that is not UTF-8, as JSON, and where they are."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.UuidType):
        return as_text(column), None
    if pa.types.is_nested(column.type):
        texts = [None if v is None else json.dumps(v, default=str) for v in column.to_pylist()]
        return pa.array(texts, pa.string()), np.asarray(column.is_valid())
    return _utf8(column) if is_text(column.type) else (column, None)


def _utf8(column: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Parquet's readers trust the writer that text is UTF-8."""
    raw = bytes_of(column.cast(pa.string()))
    if not len(raw) or raw.max() < 0x80:
        return column, None
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.binary()).to_pylist()
        texts = [None if v is None else v.decode("utf-8", "replace") for v in values]
        return pa.array(texts, pa.string()), np.array([v is not None and not _is_utf8(v) for v in values])
    return column, None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
