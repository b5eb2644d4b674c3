"""Bounded samples of tables, for looking at what flows through them. Memory: the sample and one record batch."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec.lake import Lake
from mealrec.schema import FEATURES, INTERACTIONS, SEQUENCES

BATCH = 256  # rows with token arrays at a time


def events(
    lake: Lake, version: int, columns: Sequence[str], count: int, *, after: str | None = None, seed: int = 0
) -> pa.Table:
    """At most `count` rows of `interactions`, each equally likely; `after`: of later days alone.

    Cost: one pass over the columns of the days that count. The same version and seed give the same rows."""
    dataset = lake.dataset(INTERACTIONS, version)
    later = None if after is None else pc.field("event_date") > after
    rng = np.random.default_rng(seed)
    kept, keys = dataset.schema.empty_table().select(list(columns)), np.empty(0)
    for batch in dataset.to_batches(columns=list(columns), filter=later):
        kept = pa.concat_tables([kept, pa.Table.from_batches([batch])])
        keys = np.concatenate([keys, rng.random(batch.num_rows)])
        if len(keys) > count:
            chosen = np.sort(np.argpartition(keys, count)[:count])
            kept, keys = kept.take(chosen).combine_chunks(), keys[chosen]
    return kept


def last_day(lake: Lake, version: int) -> str | None:
    """The latest day that `interactions` holds, from the names of its partitions."""
    days = [part.removeprefix("event_date=").partition("/")[0] for part in lake.files(INTERACTIONS, version)]
    return max(days, default=None)


def feature_rows(
    lake: Lake, files: Sequence[str], columns: Sequence[str], count: int, *, seed: int = 0
) -> Iterator[pa.RecordBatch]:
    """Batches of `features` from these files in random order until `count` rows are read: the cost does not grow with the
    table. A file holds videos of one hash bucket, so whole files are a fair sample."""
    filesystem, root = lake.filesystem(FEATURES)
    left = count
    for at in np.random.default_rng(seed).permutation(len(files)):
        with filesystem.open_input_file(f"{root}/{files[at]}") as source:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=BATCH, columns=list(columns)):
                if left <= 0:
                    return
                yield batch.slice(0, left)
                left -= batch.num_rows


def histories(lake: Lake, version: int, count: int) -> list[list[int]]:
    """Item indices of at most `count` viewers, oldest first: those of the smallest hash, so the same viewers in every
    version that has them. Cost: one pass over `sequences`."""
    dataset = lake.dataset(SEQUENCES, version)
    rows = (
        row
        for batch in dataset.to_batches(columns=["user_id", "item_index"])
        for row in zip(batch.column("user_id").to_pylist(), batch.column("item_index").to_pylist(), strict=True)
    )
    return [items for _, items in heapq.nsmallest(count, rows, key=lambda row: (zlib.crc32(row[0].encode()), row[0]))]
