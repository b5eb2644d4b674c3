"""Write a DataFrame's Parquet files into a table's folder and say which files they are; committing is the lake's."""

from __future__ import annotations

import re

import pyarrow.fs as pafs
from pyspark.sql import DataFrame

from mealrec.lake import Lake
from mealrec.schema import PARTITIONS

JOB_UUID = re.compile(r"part-\d+-([0-9a-f-]{36})")


def write_files(frame: DataFrame, lake: Lake, table: str, order: str) -> list[str]:
    """Append files under the table's root, one a partition value and each in the order of a column, and return their paths
    relative to it.

    Files of a killed attempt were there before and are left out. Spark names the files of one write by one identifier: should
    a second writer have been at work, RuntimeError is raised before anything is committed.
    """
    before = _parquet_files(lake, table)
    partition_by = list(PARTITIONS[table])
    laid_out = frame.repartition(*partition_by) if partition_by else frame.coalesce(1)
    laid_out = laid_out.sortWithinPartitions(*partition_by, order)
    laid_out.write.mode("append").partitionBy(*partition_by).parquet(lake.uri(table))
    written = sorted(_parquet_files(lake, table) - before)
    writers = {match.group(1) for path in written if (match := JOB_UUID.search(path))}
    if len(writers) > 1:
        raise RuntimeError(f"table {table!r}: another job wrote at the same time; nothing was committed, run it again")
    return written


def _parquet_files(lake: Lake, table: str) -> set[str]:
    filesystem, root = lake.filesystem(table)
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    return {
        info.path.removeprefix(root).lstrip("/")
        for info in filesystem.get_file_info(selector)
        if info.type == pafs.FileType.File
        and info.path.endswith(".parquet")
        and "_temporary" not in info.path
        and "_delta_log" not in info.path
    }
