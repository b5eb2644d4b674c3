"""Columns of any type to the three that a record has: text, whole numbers, UTC milliseconds. What can't be is told."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.sources.identifiers import as_text

TEXTS = ("event_id", "user_id", "video_id", "event_type", "device")
NUMBERS = ("timestamp_ms", "watch_ms", "duration_ms")
IDENTIFIERS = ("event_id", "user_id", "video_id")
PLAIN = r"^\s*-?\d{1,18}\s*$"
NUMBER = re.compile(r"^-?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,2})?$")
ISO = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?"
ISO_WITH_ZONE = re.compile(ISO + r"(Z|[+-]\d{2}:?\d{2})$")
ISO_WITHOUT = re.compile(ISO + r"$")
NO_NUMBER = ("", "nan")  # nothing was said
UNIT_MS = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001"), "ns": Decimal("0.000001")}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
LARGEST = 2**63 - 1
Typed = tuple[pa.Array, pa.Array | None]  # values, and where they could not be read (None: nowhere)
Mask = npt.NDArray[np.bool_]


def texts(column: pa.Array) -> Typed:
    """Text; numbers as they are written, whole ones without a point. Times and bytes are wrong, whatever they hold."""
    kind = column.type
    if not is_text(kind):
        if _is_bytes(kind) or pa.types.is_temporal(kind):
            return pa.nulls(len(column), pa.string()), pc.is_valid(column)
        return as_text(column), None
    return column.cast(pa.string()), None


def bytes_of(column: pa.Array) -> npt.NDArray[np.uint8]:
    """All the bytes of a text column's values, and perhaps of its neighbours in memory."""
    data = column.buffers()[2]
    return np.frombuffer(b"" if data is None else data, dtype=np.uint8)


def has_blanks(column: pa.Array) -> bool:
    """Whether any value of a text column may hold white space: a byte up to the space, or of a character beyond ASCII."""
    raw = bytes_of(column)
    return bool(len(raw)) and bool(raw.min() <= ord(" ") or raw.max() >= 0x80)


def integers(column: pa.Array, unit: str) -> Typed:
    """Whole milliseconds; fractions are cut off."""
    return _numbers(column, unit, lambda text: None)


def clock(column: pa.Array, unit: str, zone: str | None = None) -> Typed:
    """UTC milliseconds of a number (epoch, in `unit`), ISO 8601 text with a zone, or a timestamp column with a zone.

    Text and columns without one are local time of `zone`: the first where clocks show it twice, wrong where they skip it. With
    no zone given they are wrong."""
    if pa.types.is_timestamp(column.type):
        if column.type.tz is None and zone is None:  # whose midnight is it?
            return pa.nulls(len(column), pa.int64()), pc.is_valid(column)
        # in local time there are hours that come twice, and Arrow stops at them
        utc = pc.floor_temporal(column.cast(pa.timestamp(column.type.unit, "UTC")), unit="millisecond")
        whole = utc.cast(pa.timestamp("ms", "UTC"), safe=False)
        return (whole.cast(pa.int64()), None) if column.type.tz is not None else _from_local(whole, zone)
    return _numbers(column, unit, partial(_from_iso, None if zone is None else ZoneInfo(zone)))


def _from_local(column: pa.Array, zone: str | None) -> Typed:
    """column: what the clocks of the zone show, as if it were UTC, in milliseconds."""
    shown = column.cast(pa.timestamp("ms"))
    utc = pc.assume_timezone(shown, zone, ambiguous="earliest", nonexistent="earliest")
    skipped = pc.fill_null(pc.not_equal(pc.local_timestamp(utc), shown), False)
    return pc.if_else(skipped, None, utc.cast(pa.int64())), skipped if pc.any(skipped).as_py() else None


def _numbers(column: pa.Array, unit: str, otherwise: Callable[[str], int | None]) -> Typed:
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.int64()), None
    if pa.types.is_boolean(kind) or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or is_text(kind)):
        if pa.types.is_decimal(kind):
            return _numbers(column.cast(pa.string()), unit, otherwise)
        return pa.nulls(len(column), pa.int64()), pc.is_valid(column)
    if pa.types.is_integer(kind):
        if pa.types.is_uint64(kind):
            return _numbers(column.cast(pa.string()), unit, otherwise)
        return _scaled(column.cast(pa.int64()), unit)
    if pa.types.is_floating(kind):
        return _from_floats(column.cast(pa.float64()), unit)
    return _from_texts(column.cast(pa.string()), unit, otherwise)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


def _scaled(column: pa.Array, unit: str) -> Typed:
    if unit == "ms":
        return column, None
    values = np.asarray(column.fill_null(0))
    valid = np.asarray(column.is_valid())
    if unit == "s":
        fits = (values > -LARGEST // 1000) & (values < LARGEST // 1000)  # the least of 64 bits has no absolute value
        wrong = valid & ~fits
        return pa.array(np.where(fits, values, 0) * 1000, mask=~valid | wrong), pa.array(wrong) if wrong.any() else None
    return pa.array(values // (1000 if unit == "us" else 1_000_000), mask=~valid), None


def _from_floats(column: pa.Array, unit: str) -> Typed:
    values = np.asarray(column.fill_null(np.nan)) * float(UNIT_MS[unit])
    valid = ~np.isnan(values)  # as pandas writes a null
    fits = np.isfinite(values) & (np.abs(values) < 2.0**63)
    wrong = valid & ~fits
    whole = np.trunc(np.where(fits, values, 0)).astype(np.int64)
    return pa.array(whole, mask=~fits), pa.array(wrong) if wrong.any() else None


def _from_texts(column: pa.Array, unit: str, otherwise: Callable[[str], int | None]) -> Typed:
    plain = pc.fill_null(pc.match_substring_regex(column, PLAIN), False)
    values, wrong = _scaled(pc.utf8_trim_whitespace(pc.if_else(plain, column, None)).cast(pa.int64()), unit)
    odd = np.flatnonzero(np.asarray(pc.and_(pc.is_valid(column), pc.invert(plain))))
    if not len(odd):
        return values, wrong
    found, bad = values.to_pylist(), np.zeros(len(column), dtype=bool)
    if wrong is not None:
        bad |= np.asarray(wrong)
    for at, text in zip(odd.tolist(), column.take(pa.array(odd)).to_pylist(), strict=True):
        number = _from_number(text.strip(), unit)
        number = otherwise(text.strip()) if number is None else number
        found[at], bad[at] = number, number is None and text.strip().lower() not in NO_NUMBER
    return pa.array(found, pa.int64()), pa.array(bad) if bad.any() else None


def _from_number(text: str, unit: str) -> int | None:
    if not NUMBER.match(text):
        return None
    try:
        value = int(Decimal(text) * UNIT_MS[unit])
    except (InvalidOperation, OverflowError):
        return None
    return value if abs(value) <= LARGEST else None


def _from_iso(zone: ZoneInfo | None, text: str) -> int | None:
    if not ISO_WITH_ZONE.match(text) and (zone is None or not ISO_WITHOUT.match(text)):
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            shown, time = time, time.replace(tzinfo=zone).astimezone(UTC)
            if time.astimezone(zone).replace(tzinfo=None) != shown:
                return None
        return (time - EPOCH) // MILLISECOND
    except (ValueError, OverflowError):
        return None
