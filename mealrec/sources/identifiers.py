"""Identifiers as text, whatever type a Parquet file gives them: a log and its catalogue have to agree about them."""

from __future__ import annotations

from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

WHOLE = 2.0**53  # floats below it hold every whole number

Column = TypeVar("Column", pa.Array, pa.ChunkedArray)


def as_text(column: Column) -> Column:
    """Numbers as an integer column would give them: pandas makes floats of one with nulls, and of each null NaN. Raises
    pa.ArrowException for bytes that are no text."""
    if isinstance(column.type, pa.UuidType):
        found = pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
        return found if isinstance(column, pa.Array) else pa.chunked_array([found])
    if not pa.types.is_floating(column.type):
        return column.cast(pa.string())
    numbers = column.cast(pa.float64())
    is_whole = pc.and_(pc.equal(pc.trunc(numbers), numbers), pc.less(pc.abs(numbers), WHOLE))
    whole = pc.if_else(is_whole, numbers, None).cast(pa.int64()).cast(pa.string())
    return pc.coalesce(whole, pc.if_else(pc.is_nan(numbers), None, column.cast(pa.string())))
