"""The item index: every video of the catalogue gets a dense index once and keeps it for ever."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mealrec.schema import ITEMS
from spark_jobs.columns import conform


def items(spark: SparkSession, catalogue: DataFrame, interactions: DataFrame, known: DataFrame | None) -> DataFrame:
    """Rows of `items`: known videos keep item_index, new ones follow ordered by (first seen, never seen last, video_id).

    Numbering needs an order, so the new videos alone are range-sorted and counted by partition; nothing passes through one
    task and nothing depends on the order of the input.
    """
    seen = interactions.groupBy("video_id").agg(
        F.count("*").alias("interactions"),
        F.countDistinct("user_id").alias("viewers"),
        F.min("timestamp_ms").alias("first_seen_ms"),
        F.max("timestamp_ms").alias("last_seen_ms"),
    )
    ids = catalogue.select("video_id").distinct()
    base = 0
    if known is not None:
        base = known.count()
        ids = ids.join(known, "video_id", "left_anti")
    fresh = ids.join(seen.select("video_id", "first_seen_ms"), "video_id", "left")
    ordered = fresh.orderBy(F.col("first_seen_ms").asc_nulls_last(), "video_id").select("video_id")
    numbered = ordered.rdd.zipWithIndex().map(lambda pair: (pair[0][0], pair[1] + 1 + base))
    index = spark.createDataFrame(numbered, "video_id string, item_index bigint")
    if known is not None:
        index = known.select("video_id", "item_index").unionByName(index)
    counts = {"interactions": 0, "viewers": 0}
    return conform(index.join(seen, "video_id", "left").fillna(counts), ITEMS)
