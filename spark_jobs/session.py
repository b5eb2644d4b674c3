"""The Spark context of every job. Jobs pass bytes between tasks and work on them as Arrow: no part of Spark's SQL is started,
which takes as long again as the context itself."""

from __future__ import annotations

from pyspark import SparkConf, SparkContext


def build(name: str) -> SparkContext:
    """spark-submit's own options win over these."""
    conf = SparkConf().setAppName(name)
    conf.setIfMissing("spark.ui.enabled", "false")
    context = SparkContext.getOrCreate(conf)
    context.setLogLevel("ERROR")
    return context
