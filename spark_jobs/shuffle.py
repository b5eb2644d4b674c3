"""Rows through Spark's shuffle as pieces: compressed Arrow of many rows, of one place (a choice of viewers) and one day. Spark
moves bytes and neither converts nor sorts rows; numpy sorts them where they arrive.

Memory: what is scattered at once, and days of one place that are sorted together. Pieces that wait for the rest of their place
lie in a file once they are many.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from spark_jobs.sessionize import ORDER
from spark_jobs.validate import NO_DAY

SCATTERED_BYTES = 64 * 2**20  # at once: some 500,000 rows, so that pieces are large
SORTED_BYTES = 64 * 2**20
HELD_BYTES = 64 * 2**20
SMALLEST = np.iinfo(np.int64).min
Piece = tuple[int, bytes]  # day (NO_DAY for none), rows
Ints = npt.NDArray[np.int64]


def scattered(batches: Iterable[pa.RecordBatch], places: int) -> Iterator[tuple[int, Piece]]:
    """JUDGED rows as (place, piece). All rows of a viewer have one place, whichever file they are from."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.nbytes for b in held) >= SCATTERED_BYTES:
            yield from _pieces(pa.Table.from_batches(held), places)
            held = []
    if held:
        yield from _pieces(pa.Table.from_batches(held), places)


def _pieces(rows: pa.Table, places: int) -> Iterator[tuple[int, Piece]]:
    rows = rows.combine_chunks()
    place = _places(rows["user_id"].combine_chunks(), places)
    day = np.asarray(rows["day"].combine_chunks().fill_null(NO_DAY)).astype(np.int64)
    coded = pa.array(day * places + place).dictionary_encode()
    # few different values: as small integers they are sorted by radix
    group = np.asarray(coded.indices).astype(np.min_scalar_type(len(coded.dictionary)))
    order = np.argsort(group, kind="stable")
    rows, group = rows.take(pa.array(order)).combine_chunks(), group[order]
    edges = np.flatnonzero(np.r_[True, group[1:] != group[:-1], True])
    for begin, end in pairwise(edges.tolist()):
        at = order[begin]
        yield int(place[at]), (int(day[at]), packed(rows.slice(begin, end - begin)))


def _places(users: pa.Array, places: int) -> Ints:
    """Records without a viewer are rejects: they go anywhere."""
    coded = users.dictionary_encode()
    anywhere = np.arange(len(users)) % places
    if not len(coded.dictionary):
        return anywhere
    own = np.array([zlib.crc32(user.encode()) % places for user in coded.dictionary.to_pylist()])
    return np.where(np.asarray(users.is_valid()), own[np.asarray(coded.indices.fill_null(0))], anywhere)


def packed(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
        stream.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def unpacked(data: bytes | pa.Buffer) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()


def in_order(pieces: Iterable[Piece]) -> Iterator[pa.Table]:
    """All rows of a place: days in order, as many together as make SORTED_BYTES, sorted by ORDER within."""
    folder = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0] or None
    with tempfile.SpooledTemporaryFile(HELD_BYTES, dir=folder) as held:
        where: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for day, data in pieces:
            where[day].append((held.tell(), len(data)))
            held.write(data)
        waiting: list[pa.Table] = []
        for day in sorted(where):
            for begin, size in where[day]:
                held.seek(begin)
                waiting.append(unpacked(held.read(size)))
            if sum(t.nbytes for t in waiting) >= SORTED_BYTES:
                yield _sorted(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            yield _sorted(pa.concat_tables(waiting))


def _sorted(rows: pa.Table) -> pa.Table:
    """By ORDER, nulls first. Viewers are compared once a viewer, and the rest of ORDER only where viewer and time are equal."""
    rows = rows.combine_chunks()
    users = rows["user_id"].combine_chunks().dictionary_encode()
    user = np.asarray(pc.rank(users.dictionary).take(users.indices).fill_null(0)).astype(np.int64)
    ms = np.asarray(rows["timestamp_ms"].combine_chunks().fill_null(SMALLEST))
    order = np.lexsort((ms, user))
    same = (user[order][1:] == user[order][:-1]) & (ms[order][1:] == ms[order][:-1])
    tied = np.flatnonzero(np.r_[False, same] | np.r_[same, False])
    if len(tied):
        among = rows.select(ORDER).take(pa.array(order[tied]))
        keys = [(name, "ascending", "at_start") for name in ORDER]
        order[tied] = order[tied][np.asarray(pc.sort_indices(among, keys))]
    return rows.take(pa.array(order)).combine_chunks()
