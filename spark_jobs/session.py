"""The Spark session of every job."""

from __future__ import annotations

from pyspark.sql import SparkSession

from mealrec.config import SparkConfig


def build(name: str, config: SparkConfig) -> SparkSession:
    """A session in UTC with ANSI casts; spark-submit's own options win over these."""
    session: SparkSession = (
        SparkSession.builder.appName(name)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.ansi.enabled", "true")
        .config("spark.sql.shuffle.partitions", str(config.shuffle_partitions))
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        # version 2 of the committer can leave half of a failed task's files behind
        .config("spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version", "1")
        .config("spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session
