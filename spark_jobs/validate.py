"""Validation: every raw record becomes a typed row or one reason (mealrec.schema.EVENT_REASONS, first that applies).

Plain Arrow and numpy on one batch: nothing here knows Spark. Whether a record is rejected here depends on the record, its
file's name, the catalogue and the settings alone; copies and machines are for spark_jobs.sessionize, which sees a viewer's day.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.config import SessionizeConfig
from mealrec.schema import EVENT_REASONS, EVENT_TYPES
from spark_jobs.values import IDENTIFIERS, NUMBERS, TEXTS, has_blanks

DAY_MS = 86_400_000
MINUTE_MS = 60_000
NO_DAY = -(2**31)  # of a file whose name has none
# what is shuffled: a judged record, or a row of `interactions` that its neighbours need to see (context)
JUDGED = pa.schema(
    [
        *[(name, pa.string()) for name in TEXTS],
        *[(name, pa.int64()) for name in NUMBERS],
        ("payload", pa.string()),
        ("file", pa.int32()),  # place among all files; null for context
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("day", pa.int32()),  # days since 1970; null where there is no time to believe
        ("start_ms", pa.int64()),  # context: its session's start and its position there
        ("position", pa.int32()),
    ]
)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rules:
    """What a record is judged by. file_days: of each file, the day in its name. key: viewers' ids are hashed with it. served:
    files of the endpoint's journal, in which ids of events and viewers are what they shall be."""

    config: SessionizeConfig
    known: frozenset[str]
    file_days: Sequence[int]
    from_content: bool = False
    key: bytes | None = None
    served: frozenset[int] = frozenset()


def judge(batch: pa.RecordBatch, file: int, rules: Rules) -> pa.RecordBatch:
    """JUDGED from records of one file: `reason` and `detail` are null for a valid one, `payload` is kept of text records and of
    what is rejected."""
    columns = {name: batch.column(name) for name in batch.schema.names}
    is_served = file in rules.served
    if rules.key is not None and not is_served:
        columns = _hashed(columns, rules.key)
    if rules.from_content and not is_served:
        columns["event_id"] = _content_ids(columns)
    times = columns["timestamp_ms"]
    stamp = np.asarray(times.fill_null(0))
    believed = np.asarray(times.is_valid()) & ~_too_early(stamp, rules) & ~_future(stamp, file, rules)
    believed &= ~_too_late(stamp, file, rules)
    # by the ids as they came: no hash is empty or too long
    verdicts = _verdicts(columns | {"user_id": batch.column("user_id")}, stamp, file, rules)
    code = np.zeros(batch.num_rows, dtype=np.int8)
    for reason, mask in verdicts.items():
        code[(code == 0) & mask] = EVENT_REASONS.index(reason) + 1
    rows_in, bad = batch.num_rows, code > 0
    reasons = pa.array(EVENT_REASONS).take(pa.array(code - 1, mask=~bad))
    details = pa.nulls(rows_in, pa.string())
    if bad.any():
        rows = pa.RecordBatch.from_pydict(columns).filter(pa.array(bad)).to_pylist()
        users = batch.column("user_id").filter(pa.array(bad)).to_pylist()
        said = [
            _detail(EVENT_REASONS[n - 1], row | {"user_id": user}, rules.config)
            for n, row, user in zip(code[bad].tolist(), rows, users, strict=True)
        ]
        details = pc.replace_with_mask(details, pa.array(bad), pa.array(said, pa.string()))
        columns["payload"] = _payloads(columns["payload"], bad, rows)
    columns |= {
        "file": pa.array(np.full(rows_in, file, dtype=np.int32)),
        "reason": reasons,
        "detail": details,
        "day": pa.array((stamp // DAY_MS).astype(np.int32), mask=~believed),
        "start_ms": pa.nulls(rows_in, pa.int64()),
        "position": pa.nulls(rows_in, pa.int32()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in JUDGED.names], schema=JUDGED)


def _verdicts(columns: dict[str, pa.Array], stamp: npt.NDArray[np.int64], file: int, rules: Rules) -> dict[str, Mask]:
    """In the order of EVENT_REASONS."""
    config = rules.config
    broken = columns["broken"]
    oversize_line = _mask(pc.starts_with(broken, "oversize"))
    missing = np.asarray(columns["timestamp_ms"].is_null()) & ~_is_wrong(columns, "timestamp")
    oversize = np.zeros(len(stamp), dtype=bool)
    for name in TEXTS:
        oversize |= _mask(pc.greater(pc.binary_length(columns[name]), config.max_field_bytes))
    for name in IDENTIFIERS:
        column = pc.utf8_trim_whitespace(columns[name]) if has_blanks(columns[name]) else columns[name]
        empty = _mask(pc.equal(pc.binary_length(column), 0)) | np.asarray(column.is_null())
        missing |= empty & ~_is_wrong(columns, name)
    watch = np.asarray(columns["watch_ms"].fill_null(0))
    length = np.asarray(columns["duration_ms"].fill_null(1))
    both = np.asarray(columns["watch_ms"].is_valid()) & np.asarray(columns["duration_ms"].is_valid())
    return {
        "unparseable": np.asarray(broken.is_valid()) & ~oversize_line,
        "oversize_field": oversize_line | oversize,
        "missing_key": missing,
        "bad_type": np.asarray(columns["wrong"].is_valid()),
        "impossible_time": _too_early(stamp, rules),
        "future": _future(stamp, file, rules),
        "too_late": _too_late(stamp, file, rules),
        "negative_watch": watch < 0,
        "watch_too_long": both & (length > 0) & (watch / np.maximum(length, 1) > config.max_watch_ratio),
        "bad_duration": length <= 0,
        "unknown_event_type": ~_among(columns["event_type"], EVENT_TYPES),
        "unknown_video": ~_among(columns["video_id"], rules.known),
    }


def _mask(column: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(column, False))


def _is_wrong(columns: dict[str, pa.Array], name: str) -> Mask:
    """Present, but of the wrong type: `wrong` names it."""
    if columns["wrong"].null_count == len(columns["wrong"]):
        return np.zeros(len(columns["wrong"]), dtype=bool)
    return _mask(pc.match_substring_regex(columns["wrong"], rf"\b{name}\b"))


def _among(column: pa.Array, known: Any) -> Mask:
    """Looked up once a distinct value, not once a row."""
    coded = column.dictionary_encode()
    if not len(coded.dictionary):
        return np.zeros(len(column), dtype=bool)
    hits = np.array([value in known for value in coded.dictionary.to_pylist()])
    return hits[np.asarray(coded.indices.fill_null(0))] & np.asarray(column.is_valid())


def _too_early(stamp: npt.NDArray[np.int64], rules: Rules) -> Mask:
    return stamp < _ms(rules.config.earliest)


def _future(stamp: npt.NDArray[np.int64], file: int, rules: Rules) -> Mask:
    late, skew, day = stamp >= _ms(rules.config.latest), rules.config.clock_skew_minutes, rules.file_days[file]
    if skew is None or day == NO_DAY:
        return late
    return late | (stamp >= (day + 1) * DAY_MS + skew * MINUTE_MS)


def _too_late(stamp: npt.NDArray[np.int64], file: int, rules: Rules) -> Mask:
    window, day = rules.config.late_days, rules.file_days[file]
    if window is None or day == NO_DAY:
        return np.zeros(len(stamp), dtype=bool)
    return stamp < (day - window) * DAY_MS


def _ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def day_number(day: str) -> int:
    """Days since 1970-01-01 of YYYY-MM-DD."""
    return date.fromisoformat(day).toordinal() - date(1970, 1, 1).toordinal()


def day_name(number: int) -> str:
    return date.fromordinal(number + date(1970, 1, 1).toordinal()).isoformat()


def _detail(reason: str, row: dict[str, Any], config: SessionizeConfig) -> str:
    def said(name: str, what: str) -> str:
        field = "timestamp_ms" if name == "timestamp" else name
        return f"{name} is {str(row[field])[:100]}, {what}"

    missing = [n for n in IDENTIFIERS if not (row[n] or "").strip()] + ["timestamp"] * (row["timestamp_ms"] is None)
    long = [n for n in TEXTS if len((row[n] or "").encode()) > config.max_field_bytes]
    return {
        "unparseable": lambda: row["broken"],
        "oversize_field": lambda: row["broken"] or f"longer than {config.max_field_bytes} bytes: {', '.join(long)}",
        "missing_key": lambda: f"absent or empty: {', '.join(missing)}",
        "bad_type": lambda: f"not of the expected type: {row['wrong']}",
        "impossible_time": lambda: said("timestamp", f"before {config.earliest}"),
        "future": lambda: said(
            "timestamp",
            f"not before {config.latest}"
            if row["timestamp_ms"] >= _ms(config.latest)
            else f"more than {config.clock_skew_minutes} minutes after the day of its file",
        ),
        "too_late": lambda: said("timestamp", f"more than {config.late_days} days before the day of its file"),
        "negative_watch": lambda: said("watch_ms", "below 0"),
        "watch_too_long": lambda: said("watch_ms", f"more than {config.max_watch_ratio:g} times duration_ms"),
        "bad_duration": lambda: said("duration_ms", "not above 0"),
        "unknown_event_type": lambda: said("event_type", f"not one of {', '.join(EVENT_TYPES)}"),
        "unknown_video": lambda: said("video_id", "not in the catalogue"),
    }[reason]()


def as_payload(row: dict[str, Any]) -> str:
    """A record without its raw text as JSON of our fields."""
    fields = {"timestamp" if n == "timestamp_ms" else n: row[n] for n in (*TEXTS, *NUMBERS)}
    return json.dumps(fields, ensure_ascii=False)


def _payloads(raw: pa.Array, rejected: Mask, rows: list[dict[str, Any]]) -> pa.Array:
    """What has no raw text (Parquet, hashed viewers) is kept as JSON of our fields; file and line say where it is."""
    kept = [as_payload(r) if r["broken"] is None and r["payload"] is None else r["payload"] for r in rows]
    return pc.replace_with_mask(raw, pa.array(rejected), pa.array(kept, pa.string()))


def _hashed(columns: dict[str, pa.Array], key: bytes) -> dict[str, pa.Array]:
    """The raw text goes with the names: it holds them."""
    coded = columns["user_id"].dictionary_encode()
    named = [hmac.new(key, u.encode(), hashlib.sha256).hexdigest()[:32] for u in coded.dictionary.to_pylist()]
    users = pa.DictionaryArray.from_arrays(coded.indices, pa.array(named, pa.string())).dictionary_decode()
    return columns | {"user_id": users, "payload": pa.nulls(len(users), pa.string())}


def _content_ids(columns: dict[str, pa.Array]) -> pa.Array:
    fields = (columns[name].to_pylist() for name in ("user_id", "video_id", "event_type", "timestamp_ms"))
    return pa.array(
        [hashlib.sha256("|".join(map(str, row)).encode()).hexdigest()[:16] for row in zip(*fields, strict=True)]
    )
