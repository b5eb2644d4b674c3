"""Sessions: a viewer's events with no silence longer than the gap between them."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mealrec.config import SessionizeConfig
from mealrec.schema import INTERACTIONS
from spark_jobs.columns import conform


def interactions(valid: DataFrame, config: SessionizeConfig) -> DataFrame:
    """Rows of `interactions` from valid rows of spark_jobs.validate.checked.

    A session's id is a pure function of (user, session start): it does not depend on other viewers, input order, file split
    or partition count. Equal timestamps are ordered by event_id. Cost: one shuffle by user.
    """
    by_user = Window.partitionBy("user_id").orderBy("timestamp_ms", "event_id")
    silence = F.col("timestamp_ms") - F.lag("timestamp_ms").over(by_user)
    starts = silence.isNull() | (silence > config.gap_minutes * 60_000)
    started = valid.withColumn("start_ms", F.when(starts, F.col("timestamp_ms")))
    running = by_user.rowsBetween(Window.unboundedPreceding, Window.currentRow)
    located = started.withColumn("start_ms", F.last("start_ms", ignorenulls=True).over(running))
    session_id = F.substring(F.sha2(F.concat_ws("|", F.col("user_id"), F.col("start_ms").cast("string")), 256), 1, 16)
    in_session = Window.partitionBy("user_id", "start_ms").orderBy("timestamp_ms", "event_id")
    ratio = F.col("watch") / F.col("duration")
    return conform(
        located.select(
            "event_id",
            "user_id",
            "video_id",
            "event_type",
            "timestamp_ms",
            session_id.alias("session_id"),
            (F.row_number().over(in_session) - 1).alias("session_position"),
            F.col("watch").alias("watch_ms"),
            F.col("duration").alias("duration_ms"),
            ratio.alias("watch_ratio"),
            _is_positive(ratio, config).alias("is_positive"),
            "device",
            F.date_format(F.timestamp_millis("timestamp_ms"), "yyyy-MM-dd").alias("event_date"),
        ),
        INTERACTIONS,
    )


def _is_positive(ratio: Column, config: SessionizeConfig) -> Column:
    """A positive event type, or a view watched far enough."""
    watched = (F.col("event_type") == "view") & F.coalesce(ratio >= config.min_watch_ratio, F.lit(False))
    return F.col("event_type").isin(*config.positive_events) | watched
