"""`interactions` by viewer, held as packed Arrow by Spark's workers: one shuffle, after which nothing leaves its place but
counts; the sequences are written where they are made.

Memory of a task: a place's WATCHED rows. The driver, and each task, holds what is known of videos by name: the index, and with
an item_core the videos that stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from operator import add
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark import RDD, Broadcast, StorageLevel

from mealrec.lake import Lake
from mealrec.schema import INTERACTIONS, SEQUENCES
from spark_jobs import kcore, watched
from spark_jobs.job import Job
from spark_jobs.kcore import Facts
from spark_jobs.parts import Parts
from spark_jobs.sequences import SplitTimes, sequences
from spark_jobs.shuffle import Piece, packed, unpacked
from spark_jobs.units import UNIT_BYTES, partitions_of

EXPANDS = 5.0  # a byte of `interactions` is about so many in memory
MAX_ROUNDS = 100


class Core(NamedTuple):
    """The k-core: viewers with at least user_core pairs with the videos `kept` (None: all of them)."""

    user_core: int
    kept: Broadcast[bytes] | None
    facts: Facts
    rounds: int


class Places:
    """A version of `interactions`, by viewer."""

    def __init__(self, job: Job, version: int) -> None:
        self.spark, self.lake, self.buckets = job.spark, job.lake, job.config.sessionize.buckets
        sizes, cores = job.lake.file_sizes(INTERACTIONS, version), job.spark.defaultParallelism
        size = EXPANDS * sum(sizes.values())
        # a viewer's bucket is the remainder of its place: a place writes one file
        least = partitions_of(size, job.config.spark.shuffle_partitions, cores)
        places = math.ceil(least / self.buckets) * self.buckets
        readers = min(max(math.ceil(size / UNIT_BYTES), cores), len(sizes))
        pieces = job.spark.parallelize(sorted(sizes), max(readers, 1)).mapPartitions(
            partial(watched.read, job.lake, places)
        )
        # a place is its partition's number
        self.held: RDD[bytes] = pieces.partitionBy(places, int).mapPartitions(_held)
        self.held.persist(StorageLevel.MEMORY_AND_DISK)

    def videos(self) -> pa.Table:
        """What is known of each video: rows of watched.OF_VIDEOS, added up over the places two by two."""
        return unpacked(self.held.map(_of_videos).treeReduce(_added))

    def core(self, user_core: int, item_core: int) -> Core:
        """Drop viewers with fewer than user_core and videos with fewer than item_core pairs until nothing more falls.

        Rounds are few in practice, and one where only viewers or only videos have to be frequent. Raises ValueError when 100
        do not settle."""
        core = self._round(user_core, None, 1)
        if item_core <= 1:
            return core
        takes_others_along = user_core > 1
        for done in range(1, MAX_ROUNDS + 1):
            counts = self.held.flatMap(partial(_videos, user_core, core.kept)).reduceByKey(add)
            frequent = counts.filter(lambda found: found[1] >= item_core).keys().collect()
            kept = pa.table({"video_id": pa.array(sorted(frequent), pa.string())})
            following = self._round(user_core, self.spark.broadcast(packed(kept)), done)
            if following.facts == core.facts or not takes_others_along:
                return following
            core = following
        raise ValueError(f"k-core did not settle in {MAX_ROUNDS} rounds (user_core={user_core}, item_core={item_core})")

    def write(self, core: Core, index: pa.Table, times: SplitTimes) -> list[str]:
        """Write `sequences`, one row a viewer, and return its files; index: video_id and item_index of every video."""
        made = _Sequences(core, self.spark.broadcast(packed(index)), times)
        written = self.held.mapPartitionsWithIndex(partial(_write, made, self.lake, self.buckets))
        return sorted(written.collect())

    def _round(self, user_core: int, kept: Broadcast[bytes] | None, rounds: int) -> Core:
        found = self.held.map(partial(_facts, user_core, kept)).fold(kcore.NOTHING, Facts.join)
        return Core(user_core, kept, found, rounds)


class _Sequences(NamedTuple):
    """How a task makes the sequences of its place."""

    core: Core
    known: Broadcast[bytes]
    times: SplitTimes

    def of(self, rows: pa.Table) -> pa.Table:
        pairs = _staying(self.core.user_core, self.core.kept, rows)
        return sequences(pairs, unpacked(self.known.value), self.times)


def _held(pieces: Iterable[tuple[int, Piece]]) -> Iterator[bytes]:
    yield packed(watched.gathered(piece for _, piece in pieces))


def _of_videos(data: bytes) -> bytes:
    return packed(watched.of_videos(unpacked(data)))


def _added(one: bytes, other: bytes) -> bytes:
    return packed(watched.added(unpacked(one), unpacked(other)))


def _write(made: _Sequences, lake: Lake, buckets: int, place: int, held: Iterable[bytes]) -> Iterator[str]:
    """Of a task that fails no file stays."""
    with Parts(lake, SEQUENCES) as parts:
        for data in held:
            rows = made.of(unpacked(data))
            if len(rows):
                parts.write({"bucket": place % buckets}, rows)
    return iter(parts.paths)


def _staying(user_core: int, kept: Any, rows: pa.Table) -> pa.Table:
    names = None if kept is None else unpacked(kept.value)["video_id"].combine_chunks()
    return kcore.staying(rows, user_core, names)


def _facts(user_core: int, kept: Any, data: bytes) -> Facts:
    rows = unpacked(data)
    return kcore.facts(rows, _staying(user_core, kept, rows))


def _videos(user_core: int, kept: Any, data: bytes) -> list[tuple[str, int]]:
    return kcore.videos(_staying(user_core, kept, unpacked(data)))
