"""The item index: every video of the catalogue gets a dense index once and keeps it for ever.

Memory and cost: a row a video, held by the driver, which reads the catalogue and hands the index to the tasks anyway."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mealrec.schema import ITEMS, SCHEMAS

NOTHING_KNOWN = pa.schema([("video_id", pa.string()), ("item_index", pa.int64())]).empty_table()


def items(catalogue: pa.Array, seen: pa.Table, known: pa.Table = NOTHING_KNOWN) -> pa.Table:
    """Rows of `items` by item_index. Known videos keep theirs; new ones follow, ordered by (first seen, never seen last,
    video_id).

    catalogue: identifiers; seen: OF_VIDEOS of spark_jobs.watched, one a video; known: video_id and item_index."""
    unknown = catalogue.filter(pc.invert(pc.is_in(catalogue, value_set=known["video_id"].combine_chunks())))
    fresh = _with_counts(unknown, seen).sort_by([("first_seen_ms", "ascending"), ("video_id", "ascending")])
    base = pc.max(known["item_index"]).as_py() or 0
    index = pa.concat_arrays(
        [known["item_index"].combine_chunks(), pa.array(range(base + 1, base + len(fresh) + 1), pa.int64())]
    )
    names = pa.concat_arrays([known["video_id"].combine_chunks(), fresh["video_id"].combine_chunks()])
    table = _with_counts(names, seen).append_column("item_index", index).sort_by("item_index")
    return table.select(SCHEMAS[ITEMS].names).cast(SCHEMAS[ITEMS])


def _with_counts(names: pa.Array, seen: pa.Table) -> pa.Table:
    at = pc.index_in(names, value_set=seen["video_id"].combine_chunks())
    columns = {name: seen[name].take(at) for name in seen.column_names} | {"video_id": pa.chunked_array([names])}
    columns |= {name: columns[name].fill_null(0) for name in ("interactions", "viewers")}
    return pa.table(columns)
