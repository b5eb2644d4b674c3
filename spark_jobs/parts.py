"""Parquet parts written by the tasks themselves, one open file a partition value: Delta's commit makes them visible, so a task
that is tried again leaves orphans and no copies. Cost: rows; memory: the rows of one flush."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mealrec import full_disk
from mealrec.lake import Lake
from spark_jobs.outcome import file_schema

MOST_OPEN = 64  # files of one task at a time
PLAIN = {"event_id", "payload"}  # nearly every value is different: a dictionary would only cost


class Parts:
    """Files of one task below a table's root; `paths`: those written so far, with their rows. As a context manager it closes
    them at the end, and takes them back after an error."""

    def __init__(self, lake: Lake, table: str) -> None:
        self.filesystem, self.root = lake.filesystem(table)
        self.schema = file_schema(table)
        self.dictionary = [f.name for f in self.schema if f.type == pa.string() and f.name not in PLAIN]
        self.open: dict[str, tuple[str, _Closing]] = {}
        self.paths: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.close()
        except OSError:
            self.discard()
            raise

    def write(self, folders: Mapping[str, str | int], rows: pa.Table) -> None:
        """folders: values of the table's partition columns."""
        folder = "/".join(f"{column}={value}" for column, value in folders.items())
        if folder not in self.open:
            if len(self.open) >= MOST_OPEN:
                self.close()
            path = "/".join(filter(None, [folder, f"part-{uuid.uuid4().hex}.parquet"]))
            self.paths[path] = 0
            with full_disk.named(f"{self.root}/{path}"):
                self.filesystem.create_dir(f"{self.root}/{folder}", recursive=True)
                sink = self.filesystem.open_output_stream(f"{self.root}/{path}")
                writer = pq.ParquetWriter(sink, self.schema, compression="zstd", use_dictionary=self.dictionary)
            self.open[folder] = (path, _Closing(writer, sink))
        path, writer = self.open[folder]
        with full_disk.named(f"{self.root}/{path}"):
            writer.write(rows)
        self.paths[path] += len(rows)

    def close(self) -> None:
        for path, writer in self.open.values():
            with full_disk.named(f"{self.root}/{path}"):
                writer.close()
        self.open.clear()

    def discard(self) -> None:
        """Take back what was written: a task that fails, for want of room for instance, keeps none."""
        for _, writer in self.open.values():
            with suppress(OSError):
                writer.close()
        for path in self.paths:
            with suppress(OSError):
                self.filesystem.delete_file(f"{self.root}/{path}")


class _Closing:
    def __init__(self, writer: pq.ParquetWriter, sink: Any) -> None:
        self.writer, self.sink = writer, sink

    def write(self, rows: pa.Table) -> None:
        self.writer.write_table(rows)

    def close(self) -> None:
        self.writer.close()
        self.sink.close()
