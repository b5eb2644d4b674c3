"""What each viewer did with each video: `interactions` of a place (a choice of viewers) as one row a (viewer, video).

The index of videos, the k-core and the sequences are made of these rows, which are as many as there are different pairs.
Memory: GROUPED_BYTES of interactions, and the different pairs of the place. Cost: one sort of the interactions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec.lake import Lake
from mealrec.schema import INTERACTIONS
from spark_jobs.shuffle import Piece, scattered, unpacked

READ = ("user_id", "video_id", "timestamp_ms", "event_id", "session_id", "is_positive")
GROUPED_BYTES = 64 * 2**20
NEVER = np.iinfo(np.int64).max
FIRST_POSITIVE = ("timestamp_ms", "event_id", "session_id")
WATCHED = pa.schema(
    [
        ("user_id", pa.string()),
        ("video_id", pa.string()),
        ("interactions", pa.int64()),
        ("first_seen_ms", pa.int64()),
        ("last_seen_ms", pa.int64()),
        ("timestamp_ms", pa.int64()),  # this and the rest: the first positive interaction, null where there is none
        ("event_id", pa.string()),
        ("session_id", pa.string()),
    ]
)
OF_VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("interactions", pa.int64()),
        ("viewers", pa.int64()),
        ("first_seen_ms", pa.int64()),
        ("last_seen_ms", pa.int64()),
    ]
)
Ints = npt.NDArray[np.int64]


def read(lake: Lake, places: int, paths: Iterable[str]) -> Iterator[tuple[int, Piece]]:
    """Interactions of some files, ready for the shuffle."""
    return scattered((rows for path in paths for rows in _interactions(lake, path)), places)


def _interactions(lake: Lake, path: str) -> Iterator[pa.RecordBatch]:
    filesystem, root = lake.filesystem(INTERACTIONS)
    with pq.ParquetFile(filesystem.open_input_file(f"{root}/{path}")) as file:
        for batch in file.iter_batches(columns=list(READ)):
            # days are not told apart: pieces are of places alone
            yield batch.select(READ).append_column("day", pa.repeat(pa.scalar(0, pa.int32()), len(batch)))


def gathered(pieces: Iterable[Piece]) -> pa.Table:
    """Pieces of one place to its WATCHED rows."""
    held, waiting, size = WATCHED.empty_table(), list[pa.Table](), 0
    for _, data in pieces:
        waiting.append(single(unpacked(data)))
        size += waiting[-1].nbytes
        if size >= GROUPED_BYTES:
            held, waiting, size = grouped(pa.concat_tables([held, *waiting])), [], 0
    return grouped(pa.concat_tables([held, *waiting]))


def single(rows: pa.Table) -> pa.Table:
    """Each interaction as the WATCHED row that it would be alone."""
    ms, is_positive = rows["timestamp_ms"], rows["is_positive"]
    columns = {"user_id": rows["user_id"], "video_id": rows["video_id"], "first_seen_ms": ms, "last_seen_ms": ms}
    columns |= {"interactions": pa.repeat(pa.scalar(1, pa.int64()), len(rows))}
    columns |= {name: pc.if_else(is_positive, rows[name], pa.scalar(None)) for name in FIRST_POSITIVE}
    return pa.table([columns[name] for name in WATCHED.names], names=WATCHED.names).cast(WATCHED)


def grouped(rows: pa.Table) -> pa.Table:
    """WATCHED rows, those of the same viewer and video made one. Of positive ones at the same moment the lowest event_id is
    the first."""
    if not len(rows):
        return rows
    rows = rows.combine_chunks()
    users, videos = codes(rows["user_id"]), codes(rows["video_id"])
    pair = users * (videos.max() + 1) + videos
    order = by_time(pair, np.asarray(rows["timestamp_ms"].combine_chunks().fill_null(NEVER)), rows["event_id"])
    starts = edges(pair[order])[:-1]
    out = rows.take(pa.array(order[starts]))
    for name, join in (("interactions", np.add), ("first_seen_ms", np.minimum), ("last_seen_ms", np.maximum)):
        joined = join.reduceat(np.asarray(rows[name].combine_chunks())[order], starts)
        out = out.set_column(WATCHED.get_field_index(name), name, pa.array(joined, pa.int64()))
    return out


def of_videos(rows: pa.Table) -> pa.Table:
    """OF_VIDEOS of WATCHED rows: what a place knows of each video."""
    counts = [("interactions", "sum"), ("user_id", "count"), ("first_seen_ms", "min"), ("last_seen_ms", "max")]
    return _by_video(rows, counts)


def added(one: pa.Table, other: pa.Table) -> pa.Table:
    """What two places know of each video."""
    counts = [("interactions", "sum"), ("viewers", "sum"), ("first_seen_ms", "min"), ("last_seen_ms", "max")]
    return _by_video(pa.concat_tables([one, other]), counts)


def _by_video(rows: pa.Table, counts: list[tuple[str, str]]) -> pa.Table:
    found = rows.group_by("video_id", use_threads=False).aggregate(counts)
    names = ["video_id", *(f"{column}_{what}" for column, what in counts)]
    return found.select(names).rename_columns(OF_VIDEOS.names).cast(OF_VIDEOS)


def by_time(group: Ints, ms: Ints, event_id: pa.ChunkedArray) -> Ints:
    """Places of the rows in the order of (group, ms, event_id); identifiers are compared where the rest is equal, and not at
    all where ms is NEVER."""
    order = np.lexsort((ms, group))
    same = (group[order][1:] == group[order][:-1]) & (ms[order][1:] == ms[order][:-1]) & (ms[order][1:] != NEVER)
    tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False])
    if len(tied):
        at = order[tied]
        among = pa.table({"group": group[at], "ms": ms[at], "event_id": event_id.take(pa.array(at))})
        order[tied] = at[np.asarray(pc.sort_indices(among, [(name, "ascending") for name in among.column_names]))]
    return order


def codes(values: pa.ChunkedArray) -> Ints:
    """A number for each different value."""
    return np.asarray(values.combine_chunks().dictionary_encode().indices).astype(np.int64)


def edges(group: Ints) -> Ints:
    """Where each run of equal numbers begins, and the end."""
    return np.flatnonzero(np.r_[True, group[1:] != group[:-1], True])
