"""Validation: every raw line becomes a typed row or one reason (mealrec.schema.EVENT_REASONS, first that applies)."""

from __future__ import annotations

from datetime import UTC, datetime

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from mealrec.config import SessionizeConfig
from mealrec.schema import EVENT_TYPES, QUARANTINE
from spark_jobs.columns import conform

ISO_WITH_ZONE = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})$"
NUMBER = r"^-?\d+(\.\d+)?$"
REQUIRED = ("event_id", "user_id", "video_id", "timestamp")


def checked(parsed: DataFrame, catalogue: DataFrame, config: SessionizeConfig) -> DataFrame:
    """Typed columns plus `reason` and `detail`, both null for a valid row.

    parsed: spark_jobs.parse.parsed; catalogue: one column video_id. Duplicates are found among otherwise valid rows: of one
    event_id the copy with the smallest (timestamp, file, line) stays.
    """
    known = catalogue.select(F.col("video_id"), F.lit(True).alias("is_known")).distinct()
    typed = _typed(parsed).join(known, "video_id", "left")
    judged = typed.withColumn("verdict", _verdict(config))
    order = Window.partitionBy("event_id", F.col("verdict").isNull()).orderBy("timestamp_ms", "source_file", "line")
    copies = judged.withColumn("copy", F.row_number().over(order))
    is_copy = F.col("verdict").isNull() & (F.col("copy") > 1)
    duplicate = _because("duplicate_event", F.concat(F.lit("event_id seen before: "), "event_id"))
    return copies.withColumn("verdict", F.when(is_copy, duplicate).otherwise(F.col("verdict"))).select(
        "*", F.col("verdict.reason").alias("reason"), F.col("verdict.detail").alias("detail")
    )


def rejected(frame: DataFrame) -> DataFrame:
    """Quarantine rows of `checked`: the raw line as it came, its place, and why."""
    day = F.regexp_extract("source_file", r"(\d{4}-\d{2}-\d{2})", 1)
    return conform(
        frame.where(F.col("reason").isNotNull()).select(
            "*",
            F.col("event_id").alias("key"),
            F.lit("sessionize").alias("stage"),
            F.when(day == "", "unknown").otherwise(day).alias("ingest_date"),
        ),
        QUARANTINE,
    )


def _typed(parsed: DataFrame) -> DataFrame:
    text = F.trim("timestamp")
    from_iso = F.unix_millis(F.when(text.rlike(ISO_WITH_ZONE), F.expr("try_cast(trim(timestamp) as timestamp)")))
    from_number = F.when(text.rlike(NUMBER), F.expr("try_cast(try_cast(trim(timestamp) as decimal(30, 6)) as bigint)"))
    return parsed.select(
        "*",
        F.coalesce(from_number, from_iso).alias("timestamp_ms"),
        F.expr("try_cast(try_cast(watch_ms as decimal(30, 6)) as bigint)").alias("watch"),
        F.expr("try_cast(try_cast(duration_ms as decimal(30, 6)) as bigint)").alias("duration"),
    )


def _verdict(config: SessionizeConfig) -> Column:
    """Null for a valid row, else a struct (reason, detail); `when` keeps the order of EVENT_REASONS."""
    missing = F.concat_ws(", ", *[F.when(_empty(name), F.lit(name)) for name in REQUIRED])
    bad_type = F.concat_ws(", ", *[F.when(bad, F.lit(name)) for name, bad in _bad_types().items()])
    ratio = F.col("watch") / F.nullif(F.col("duration"), F.lit(0))
    too_long = F.col("duration").isNotNull() & (F.col("duration") > 0) & (ratio > config.max_watch_ratio)
    types = ", ".join(EVENT_TYPES)
    return (
        F.when(~F.col("is_object"), _because("unparseable", F.lit("the line is not a JSON object in UTF-8")))
        .when(missing != "", _because("missing_key", F.concat(F.lit("absent or empty: "), missing)))
        .when(bad_type != "", _because("bad_type", F.concat(F.lit("not of the expected type: "), bad_type)))
        .when(
            F.col("timestamp_ms") < _ms(config.earliest),
            _because("impossible_time", _said("timestamp", f"before {config.earliest}")),
        )
        .when(
            F.col("timestamp_ms") >= _ms(config.latest),
            _because("future", _said("timestamp", f"not before {config.latest}")),
        )
        .when(F.col("watch") < 0, _because("negative_watch", _said("watch_ms", "below 0")))
        .when(
            too_long,
            _because("watch_too_long", _said("watch_ms", f"more than {config.max_watch_ratio:g} times duration_ms")),
        )
        .when(F.col("duration") <= 0, _because("bad_duration", _said("duration_ms", "not above 0")))
        .when(
            F.coalesce(~F.col("event_type").isin(*EVENT_TYPES), F.lit(True)),
            _because("unknown_event_type", _said("event_type", f"not one of {types}")),
        )
        .when(F.col("is_known").isNull(), _because("unknown_video", _said("video_id", "not in the catalogue")))
    )


def _bad_types() -> dict[str, Column]:
    """Which fields hold something that is not what they should be (identifiers must be scalars)."""
    nested = {name: F.trim(name).rlike(r"^[\[{]") for name in ("event_id", "user_id", "video_id")}
    return nested | {
        "timestamp": F.col("timestamp_ms").isNull(),
        "watch_ms": F.col("watch_ms").isNotNull() & F.col("watch").isNull(),
        "duration_ms": F.col("duration_ms").isNotNull() & F.col("duration").isNull(),
    }


def _empty(name: str) -> Column:
    return F.col(name).isNull() | (F.trim(name) == "")


def _because(reason: str, detail: Column) -> Column:
    return F.struct(F.lit(reason).alias("reason"), detail.alias("detail"))


def _said(name: str, what: str) -> Column:
    return F.concat(F.lit(f"{name} is "), F.coalesce(F.substring(name, 1, 100), F.lit("null")), F.lit(f", {what}"))


def _ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
