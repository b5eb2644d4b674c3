"""The item index: every video of the catalogue gets a dense index once and keeps it for ever."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from mealrec.schema import ITEMS
from spark_jobs.columns import conform


def items(catalogue: DataFrame, watched: DataFrame, known: DataFrame | None) -> DataFrame:
    """Rows of `items`: known videos keep item_index, new ones follow ordered by (first seen, never seen last, video_id).
    watched: rows of spark_jobs.watched's OF_VIDEOS, any number a video.

    Numbering needs an order, so the new videos alone are range-sorted and counted by range; no video but the count of each
    range passes through one task, and nothing depends on the order of the input.
    """
    seen = watched.groupBy("video_id").agg(
        F.sum("interactions").alias("interactions"),
        F.sum("viewers").alias("viewers"),
        F.min("first_seen_ms").alias("first_seen_ms"),
        F.max("last_seen_ms").alias("last_seen_ms"),
    )
    ids = catalogue.select("video_id").distinct()
    base = 0
    if known is not None:
        base = known.count()
        ids = ids.join(known, "video_id", "left_anti")
    fresh = ids.join(seen.select("video_id", "first_seen_ms"), "video_id", "left")
    index = _numbered(fresh, base)
    if known is not None:
        index = known.select("video_id", "item_index").unionByName(index)
    counts = {"interactions": 0, "viewers": 0}
    return conform(index.join(seen, "video_id", "left").fillna(counts), ITEMS)


def _numbered(fresh: DataFrame, base: int) -> DataFrame:
    """video_id and item_index, from base + 1 on: the place within its range, after all that the ranges before it hold.

    The ranges are held, not made again: their bounds are sampled, and a second sample may draw them elsewhere."""
    order = [F.col("first_seen_ms").asc_nulls_last(), F.col("video_id")]
    ranges = fresh.repartitionByRange(*order).withColumn("range", F.spark_partition_id()).localCheckpoint()
    earlier = Window.orderBy("range").rowsBetween(Window.unboundedPreceding, -1)  # a row a range
    starts = ranges.groupBy("range").count().select("range", F.sum("count").over(earlier).alias("before"))
    place = F.row_number().over(Window.partitionBy("range").orderBy(*order))
    index = F.lit(base) + F.coalesce("before", F.lit(0)) + F.col("place")
    numbered = ranges.withColumn("place", place).join(F.broadcast(starts), "range")
    return numbered.select("video_id", index.cast("bigint").alias("item_index"))
