"""Chronological sequences: what each viewer liked, in order, with session boundaries and split points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.schema import SCHEMAS, SEQUENCES
from spark_jobs.watched import by_time, codes, edges

ROWS = pa.schema([field for field in SCHEMAS[SEQUENCES] if field.name != "bucket"])


class SplitTimes(NamedTuple):
    """Global temporal split: training before `valid_ms`, validation before `test_ms`, test from there on."""

    valid_ms: int
    test_ms: int


def split_times(first_ms: int, last_ms: int, *, valid_share: float, test_share: float) -> SplitTimes:
    """The last test_share of the time range is test, the valid_share before it validation."""
    span = last_ms - first_ms
    return SplitTimes(last_ms - round(span * (valid_share + test_share)), last_ms - round(span * test_share))


def sequences(pairs: pa.Table, index: pa.Table, times: SplitTimes) -> pa.Table:
    """ROWS of a place's pairs, one a viewer, in the order of their names; index: video_id and item_index of every video.

    Cost: one sort of the pairs."""
    if not len(pairs):
        return ROWS.empty_table()
    pairs = pairs.combine_chunks()
    names = pairs["user_id"].combine_chunks().dictionary_encode()
    user = np.asarray(pc.rank(names.dictionary).take(names.indices)).astype(np.int64)
    order = by_time(user, np.asarray(pairs["timestamp_ms"].combine_chunks()), pairs["event_id"])
    pairs, user = pairs.take(pa.array(order)).combine_chunks(), user[order]
    begin, ms, session = edges(user), np.asarray(pairs["timestamp_ms"].combine_chunks()), codes(pairs["session_id"])
    starts = np.r_[True, session[1:] != session[:-1]]
    starts[begin[:-1]] = True
    item = index["item_index"].take(pc.index_in(pairs["video_id"], value_set=index["video_id"].combine_chunks()))
    lists = {"item_index": item.combine_chunks(), "timestamp_ms": pa.array(ms), "session_start": pa.array(starts)}
    before = {f"temporal_{name}_start": ms < at for name, at in (("valid", times.valid_ms), ("test", times.test_ms))}
    offsets = pa.array(begin, pa.int32())
    columns = {name: pa.ListArray.from_arrays(offsets, values) for name, values in lists.items()}
    columns |= {name: pa.array(np.add.reduceat(is_so.astype(np.int64), begin[:-1])) for name, is_so in before.items()}
    columns |= {"user_id": pairs["user_id"].take(pa.array(begin[:-1])), "length": pa.array(np.diff(begin))}
    return pa.table([columns[name] for name in ROWS.names], names=ROWS.names).cast(ROWS)
