"""Raw lines of event files, with the file and line they came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

RAW = "payload string, source_file string, line bigint"
BATCH_LINES = 10_000


def raw_lines(spark: SparkSession, files: Sequence[str]) -> DataFrame:
    """payload, source_file (name only), line (1-based) of every non-blank line.

    One task reads one file in a stream, so line numbers need no global pass; memory is one batch of lines. Bytes that are
    not UTF-8 are replaced by U+FFFD, which makes the line fail validation instead of the job.
    """
    paths = spark.createDataFrame([(f,) for f in files], "path string").repartition(len(files), "path")
    return paths.mapInArrow(_read_files, RAW)


def parsed(raw: DataFrame) -> DataFrame:
    """Fields as strings beside the raw columns; `is_object` is false where the line is no JSON object."""
    fields = ("event_id", "user_id", "video_id", "event_type", "timestamp", "watch_ms", "duration_ms", "device")
    schema = ", ".join(f"`{name}` string" for name in fields) + ", _corrupt string"
    record = F.from_json("payload", schema, {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": "_corrupt"})
    frame = raw.withColumn("record", record)
    is_object = (
        F.trim("payload").startswith("{")
        & F.col("record").isNotNull()
        & F.col("record._corrupt").isNull()
        & ~F.col("payload").contains("\ufffd")
    )
    return frame.select(
        "payload", "source_file", "line", is_object.alias("is_object"), *[f"record.{name}" for name in fields]
    )


def _read_files(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for path in batch.column("path").to_pylist():
            yield from _read_file(Path(path))


def _read_file(path: Path) -> Iterator[pa.RecordBatch]:
    payload: list[str] = []
    numbers: list[int] = []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            text = text.rstrip("\r\n")
            if text.strip():
                payload.append(text)
                numbers.append(number)
            if len(payload) == BATCH_LINES:
                yield _batch(payload, numbers, path.name)
                payload, numbers = [], []
    if payload:
        yield _batch(payload, numbers, path.name)


def _batch(payload: list[str], numbers: list[int], name: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array(payload, pa.string()), pa.array([name] * len(payload), pa.string()), pa.array(numbers, pa.int64())],
        names=["payload", "source_file", "line"],
    )
