"""`interactions` by viewer, held as packed Arrow by Spark's workers: one shuffle, after which nothing leaves its place but
counts and finished sequences.

Memory of a task: a place's WATCHED rows. The driver, and each task, holds what is known of videos by name: the index, and with
an item_core the videos that stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from operator import add
from typing import Any, NamedTuple

import pyarrow as pa
from pyspark import RDD, Broadcast, StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mealrec.schema import INTERACTIONS, SEQUENCES
from spark_jobs import kcore, watched
from spark_jobs.columns import conform, ddl
from spark_jobs.job import Job
from spark_jobs.kcore import Facts
from spark_jobs.sequences import ROWS, SplitTimes, sequences
from spark_jobs.shuffle import Piece, packed, unpacked
from spark_jobs.units import UNIT_BYTES, partitions_of

EXPANDS = 5.0  # a byte of `interactions` is about so many in memory
MAX_ROUNDS = 100
BATCH_ROWS = 8192


class Core(NamedTuple):
    """The k-core: viewers with at least user_core pairs with the videos `kept` (None: all of them)."""

    user_core: int
    kept: Broadcast[bytes] | None
    facts: Facts
    rounds: int


class Places:
    """A version of `interactions`, by viewer."""

    def __init__(self, job: Job, version: int) -> None:
        self.spark = job.spark
        context, sizes = job.spark.sparkContext, job.lake.file_sizes(INTERACTIONS, version)
        size = EXPANDS * sum(sizes.values())
        places = partitions_of(size, job.config.spark.shuffle_partitions, context.defaultParallelism)
        readers = min(max(math.ceil(size / UNIT_BYTES), context.defaultParallelism), len(sizes))
        pieces = context.parallelize(sorted(sizes), max(readers, 1)).mapPartitions(
            partial(watched.read, job.lake, places)
        )
        # a place is its partition's number
        self.held: RDD[bytes] = pieces.partitionBy(places, int).mapPartitions(_held)
        self.held.persist(StorageLevel.MEMORY_AND_DISK)

    def videos(self) -> DataFrame:
        """What each place knows of each video: rows of watched.OF_VIDEOS."""
        return self._frame(watched.of_videos, watched.OF_VIDEOS)

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
            following = self._round(user_core, self.spark.sparkContext.broadcast(packed(kept)), done)
            if following.facts == core.facts or not takes_others_along:
                return following
            core = following
        raise ValueError(f"k-core did not settle in {MAX_ROUNDS} rounds (user_core={user_core}, item_core={item_core})")

    def sequences(self, core: Core, index: pa.Table, times: SplitTimes, *, buckets: int) -> DataFrame:
        """Rows of `sequences`, one a viewer; index: video_id and item_index of every video."""
        known = self.spark.sparkContext.broadcast(packed(index))
        rows = self._frame(partial(_sequences, core, known, times), ROWS)
        return conform(rows.withColumn("bucket", F.pmod(F.hash("user_id"), F.lit(buckets))), SEQUENCES)

    def _round(self, user_core: int, kept: Broadcast[bytes] | None, rounds: int) -> Core:
        found = self.held.map(partial(_facts, user_core, kept)).fold(kcore.NOTHING, Facts.join)
        return Core(user_core, kept, found, rounds)

    def _frame(self, made: Callable[[pa.Table], pa.Table], schema: pa.Schema) -> DataFrame:
        """A table made of each place, as rows of Spark's. It is made before the rows turn into Spark's: what a place holds is
        many times larger."""
        tables = self.held.map(partial(_made, made))
        return self.spark.createDataFrame(tables, "rows binary", verifySchema=False).mapInArrow(_rows, ddl(schema))


def _held(pieces: Iterable[tuple[int, Piece]]) -> Iterator[bytes]:
    yield packed(watched.gathered(piece for _, piece in pieces))


def _made(made: Callable[[pa.Table], pa.Table], data: bytes) -> tuple[bytes]:
    return (packed(made(unpacked(data))),)


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for data in batch.column(0):
            yield from unpacked(data.as_buffer()).to_batches(max_chunksize=BATCH_ROWS)


def _staying(user_core: int, kept: Any, rows: pa.Table) -> pa.Table:
    names = None if kept is None else unpacked(kept.value)["video_id"].combine_chunks()
    return kcore.staying(rows, user_core, names)


def _facts(user_core: int, kept: Any, data: bytes) -> Facts:
    rows = unpacked(data)
    return kcore.facts(rows, _staying(user_core, kept, rows))


def _videos(user_core: int, kept: Any, data: bytes) -> list[tuple[str, int]]:
    return kcore.videos(_staying(user_core, kept, unpacked(data)))


def _sequences(core: Core, known: Any, times: SplitTimes, rows: pa.Table) -> pa.Table:
    return sequences(_staying(core.user_core, core.kept, rows), unpacked(known.value), times)
