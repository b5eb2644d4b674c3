"""Chronological sequences: what each viewer liked, in order, with session boundaries and split points."""

from __future__ import annotations

from typing import NamedTuple

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from mealrec.schema import SEQUENCES
from spark_jobs.columns import conform


class SplitTimes(NamedTuple):
    """Global temporal split: training before `valid_ms`, validation before `test_ms`, test from there on."""

    valid_ms: int
    test_ms: int


def positive_pairs(interactions: DataFrame) -> DataFrame:
    """First positive interaction of each (viewer, video): user_id, video_id, timestamp_ms, event_id, session_id."""
    first = Window.partitionBy("user_id", "video_id").orderBy("timestamp_ms", "event_id")
    return (
        interactions.where("is_positive")
        .withColumn("occurrence", F.row_number().over(first))
        .where("occurrence = 1")
        .select("user_id", "video_id", "timestamp_ms", "event_id", "session_id")
    )


def split_times(pairs: DataFrame, *, valid_share: float, test_share: float) -> SplitTimes:
    """The last test_share of the time range is test, the valid_share before it validation."""
    row = pairs.agg(F.min("timestamp_ms").alias("low"), F.max("timestamp_ms").alias("high")).first()
    low, high = int(row["low"]), int(row["high"])
    span = high - low
    return SplitTimes(high - round(span * (valid_share + test_share)), high - round(span * test_share))


def sequences(pairs: DataFrame, index: DataFrame, times: SplitTimes, *, buckets: int) -> DataFrame:
    """Rows of `sequences`, one a viewer. Cost: one shuffle by user; a viewer's history is held by one task."""
    step = F.struct("timestamp_ms", "event_id", "item_index", "session_id")
    located = pairs.join(index.select("video_id", "item_index"), "video_id")
    grouped = located.groupBy("user_id").agg(F.array_sort(F.collect_list(step)).alias("steps"))
    sessions = F.expr("transform(steps, (s, i) -> i = 0 or s.session_id <> steps[i - 1].session_id)")
    return conform(
        grouped.select(
            "user_id",
            F.col("steps.item_index").alias("item_index"),
            F.col("steps.timestamp_ms").alias("timestamp_ms"),
            sessions.alias("session_start"),
            F.size("steps").alias("length"),
            F.expr(f"size(filter(steps, s -> s.timestamp_ms < {times.valid_ms}))").alias("temporal_valid_start"),
            F.expr(f"size(filter(steps, s -> s.timestamp_ms < {times.test_ms}))").alias("temporal_test_start"),
            F.pmod(F.hash("user_id"), F.lit(buckets)).alias("bucket"),
        ),
        SEQUENCES,
    )
