"""Labelled rows to rows of `interactions` and `quarantine`. Plain Arrow, no Spark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.config import SessionizeConfig
from mealrec.schema import INTERACTIONS, PARTITIONS, QUARANTINE, SCHEMAS
from spark_jobs.sessionize import session_id
from spark_jobs.validate import NO_DAY, as_payload, day_name

UNDATED = "undated"


def interactions(rows: pa.Table, config: SessionizeConfig) -> pa.Table:
    """Columns of `interactions` in a file, which are all but the partition's; rows without a reason alone."""
    ratio = pc.divide(
        rows["watch_ms"].cast(pa.float64(), safe=False), rows["duration_ms"].cast(pa.float64(), safe=False)
    )
    ratio = pc.if_else(pc.fill_null(pc.greater(rows["duration_ms"], 0), False), ratio, None)
    watched = pc.and_(
        pc.equal(rows["event_type"], "view"), pc.fill_null(pc.greater_equal(ratio, config.min_watch_ratio), False)
    )
    liked = pc.is_in(rows["event_type"], value_set=pa.array(config.positive_events, pa.string()))
    columns = {
        "session_id": _session_ids(rows),
        "session_start_ms": rows["start_ms"],
        "session_position": rows["position"],
        "watch_ratio": ratio,
        "is_positive": pc.or_(liked, watched),
    }
    schema = file_schema(INTERACTIONS)
    return pa.table(
        [columns.get(name, rows[name] if name in rows.column_names else None) for name in schema.names], schema=schema
    )


def rejects(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Columns of `quarantine` in a file; rows with a reason alone. names: the event files."""
    table = rows.to_pylist()
    keyed = [r["video_id"] if r["reason"] == "unknown_video" else r["event_id"] for r in table]
    payload = [r["payload"] if r["payload"] is not None or r["user_id"] is None else as_payload(r) for r in table]
    columns = {
        "key": pa.array(keyed, pa.string()),
        "payload": pa.array(payload, pa.string()),
        "source_file": pa.array([names[r["file"]] for r in table], pa.string()),
    }
    schema = file_schema(QUARANTINE)
    return pa.table(
        [columns.get(name, rows[name] if name in rows.column_names else None) for name in schema.names], schema=schema
    )


def file_schema(table: str) -> pa.Schema:
    return pa.schema([field for field in SCHEMAS[table] if field.name not in PARTITIONS[table]])


def partition_of(day: int | None, file_day: int) -> str:
    """ingest_date of a rejected record."""
    if day is not None:
        return day_name(day)
    return UNDATED if file_day == NO_DAY else f"{UNDATED}-{day_name(file_day)}"


def _session_ids(rows: pa.Table) -> pa.Array:
    """One hash a run of rows of one session: rows come sorted by viewer and time."""
    start = np.asarray(rows["start_ms"].combine_chunks())
    users = rows["user_id"].combine_chunks()
    new = np.ones(len(start), dtype=bool)
    new[1:] = start[1:] != start[:-1]
    if len(start) > 1:
        new[1:] |= np.asarray(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)))
    at = np.flatnonzero(new)
    ids = [session_id(u, s) for u, s in zip(users.take(pa.array(at)).to_pylist(), start[at].tolist(), strict=True)]
    return pa.array(ids, pa.string()).take(pa.array(np.cumsum(new) - 1))
