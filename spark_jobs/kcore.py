"""Iterative k-core of the viewer-video graph of positive interactions."""

from __future__ import annotations

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

MAX_ROUNDS = 100


def kcore(pairs: DataFrame, *, user_core: int, item_core: int) -> tuple[DataFrame, int]:
    """Drop viewers with fewer than user_core and videos with fewer than item_core pairs until nothing more falls.

    pairs: distinct (user_id, video_id, ...). Returns the pairs that stay (cached) and the rounds it took. Cost: two counts
    and one pass a round; rounds are few in practice, and one where only viewers or only videos have to be frequent. Raises
    ValueError when 100 rounds do not settle.
    """
    takes_others_along = min(user_core, item_core) > 1
    current = pairs.persist(StorageLevel.MEMORY_AND_DISK)
    size = current.count()
    for done in range(MAX_ROUNDS):
        kept = _drop_rare(_drop_rare(current, "user_id", user_core), "video_id", item_core)
        kept = kept.persist(StorageLevel.MEMORY_AND_DISK)
        left = kept.count()
        current.unpersist()
        current = kept
        if left == size or not takes_others_along:
            return current, done + 1
        size = left
    raise ValueError(f"k-core did not settle in {MAX_ROUNDS} rounds (user_core={user_core}, item_core={item_core})")


def _drop_rare(pairs: DataFrame, column: str, least: int) -> DataFrame:
    if least <= 1:
        return pairs
    frequent = pairs.groupBy(column).count().where(F.col("count") >= least).select(column)
    return pairs.join(frequent, column, "left_semi")
