"""Identifiers as text, whatever type a Parquet file gives them: a log and its catalogue have to agree about them."""

from __future__ import annotations

import re
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

WHOLE = 2.0**53  # floats below it hold every whole number
WHOLE_TEXT = r"^(0|-?[1-9][0-9]{0,14}|-?[1-8][0-9]{15})\.0$"  # all of these are below it

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


def of_number(text: str) -> str:
    """A number of JSON as an integer column would give it: 12345.0 is 12345. Others stay as they are written."""
    return re.sub(WHOLE_TEXT, r"\1", text)


def of_cells(column: Column) -> Column:
    """Cells of a CSV, which does not tell numbers from text: what is written like a whole number's float is the number."""
    return pc.replace_substring_regex(column, WHOLE_TEXT, r"\1")
