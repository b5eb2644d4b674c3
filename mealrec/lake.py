"""The lake: every table between stages is a Delta table under one root, and only this module knows paths.

A stage writes its Parquet files into a table's folder (Spark executors and Ray workers do so themselves), then commits
them in one Delta transaction that carries the stage's digest and summary. Readers see all of it or nothing; a stage whose
digest is already committed has nothing to do. Cost: commits grow with files, never with rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from mealrec import __version__, claims, delta_log, full_disk
from mealrec.claims import KEEP_LOG, Claim
from mealrec.redaction import redact
from mealrec.schema import PARTITIONS, SCHEMAS

DIGEST_KEY = "mealrec.stage_digest"
SUMMARY_KEY = "mealrec.summary"
STAGE_KEY = "mealrec.stage"
THROUGH_KEY = "mealrec.through"


class LostRace(RuntimeError):
    """Somebody else committed to the table after it was read: what was decided from it has to be decided again."""


@dataclass(frozen=True)
class Commit:
    """One committed version of a table, with the metadata its stage left."""

    table: str
    version: int
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Provenance:
    """Who commits and from what: becomes the commit's metadata. With a claim, the commit is refused once it is overtaken."""

    stage: str
    digest: str
    run_id: str = ""
    inputs: Mapping[str, int] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    claim: Claim | None = None
    through: str = ""  # the last day whose event files count; "": none is left out

    def properties(self, retries: int | None = None) -> CommitProperties:
        """retries: 0 where a table is made, or a second one that makes it would be committed as its next version."""
        return CommitProperties(
            max_commit_retries=retries,
            app_transactions=[self.claim.transaction()] if self.claim else None,
            custom_metadata={
                STAGE_KEY: self.stage,
                DIGEST_KEY: self.digest,
                "mealrec.run_id": self.run_id,
                "mealrec.code_version": __version__,
                THROUGH_KEY: self.through,
                "mealrec.inputs": json.dumps(dict(self.inputs), sort_keys=True),
                SUMMARY_KEY: redact(json.dumps(self.summary, sort_keys=True)),
            },
        )


class Lake:
    """Tables under one root, plus the local working folder of a run.

    `root` is a folder or an object-store URI; `work` (landing files, checkpoints, reports, logs) is always local.
    """

    def __init__(self, root: str, work: str | None = None) -> None:
        self.is_local = "://" not in root or root.startswith("file://")
        if self.is_local:
            root = str(Path(root.removeprefix("file://")).absolute())
        elif work is None:
            raise ValueError(f"lake {root!r} is an object store: give a local work folder as well (work=...)")
        self.root = root.rstrip("/")
        self.work = Path(work).absolute() if work else Path(self.root) / "_work"

    # -- places ------------------------------------------------------------------------------------------------------
    def uri(self, table: str) -> str:
        """Root of a table. Raises ValueError for a table that schema.py does not name."""
        if table not in SCHEMAS:
            raise ValueError(f"unknown table {table!r}; the lake holds: {', '.join(SCHEMAS)}")
        return f"{self.root}/{table}"

    def folder(self, *parts: str) -> Path:
        """A folder below `work`, made when absent: landing, checkpoints, report, logs, ..."""
        path = self.work.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def filesystem(self, table: str) -> tuple[pafs.FileSystem, str]:
        """Arrow file system and path of a table, for workers that write its Parquet files."""
        uri = self.uri(table)
        filesystem, path = pafs.FileSystem.from_uri(Path(uri).as_uri() if self.is_local else uri)
        return filesystem, path

    # -- reading -----------------------------------------------------------------------------------------------------
    def exists(self, table: str) -> bool:
        return DeltaTable.is_deltatable(self.uri(table))

    def version(self, table: str) -> int | None:
        """Newest committed version, None when there is no table."""
        return DeltaTable(self.uri(table)).version() if self.exists(table) else None

    def versions(self, table: str) -> list[int]:
        """Versions that can be opened, oldest first: those whose log goes back to the first one, or to a checkpoint, without a
        gap. [] without a table."""
        return delta_log.openable(*self.filesystem(table))

    def at(self, table: str, version: int | None = None) -> DeltaTable:
        """The table pinned at a version (None: newest). Raises ValueError naming the stage to run when it is absent."""
        if not self.exists(table):
            raise ValueError(f"table {table!r} does not exist under {self.root}: run the stage that writes it first")
        return DeltaTable(self.uri(table), version=version)

    def read(
        self, table: str, version: int | None = None, columns: Sequence[str] | None = None, filters: Any = None
    ) -> pa.Table:
        """One version as an Arrow table. Cost: the rows and columns selected; large tables are for Spark and Ray."""
        return self.dataset(table, version).to_table(columns=list(columns) if columns else None, filter=filters)

    def dataset(self, table: str, version: int | None = None) -> pads.Dataset:
        """One version as an Arrow dataset, to be streamed.

        Over Arrow's own file system: deltalake's, which is the default, calls Python from Arrow's threads, and a process
        that ends soon after it has read is then aborted (13 of 15 did)."""
        filesystem, root = self.filesystem(table)
        return self.at(table, version).to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(root, filesystem))

    def files(self, table: str, version: int | None = None) -> list[str]:
        """Parquet files of one pinned version, relative to the table's root, sorted."""
        # not DeltaTable.file_uris: it percent-encodes a root with a space or an accent in its name
        return sorted(self.file_sizes(table, version))

    def file_sizes(self, table: str, version: int | None = None) -> dict[str, int]:
        """Bytes of each of them."""
        added = pa.table(self.at(table, version).get_add_actions())
        return dict(zip(added["path"].to_pylist(), added["size_bytes"].to_pylist(), strict=True))

    def last_commit(self, table: str, stage: str | None = None) -> Commit | None:
        """Newest commit (of `stage`, when given) with its metadata; None when there is none."""
        return next(iter(self.history(table, stage)), None)

    def history(self, table: str, stage: str | None = None, limit: int | None = None) -> list[Commit]:
        """Commits (of `stage`, when given), newest first, among the table's newest `limit` (None: all); [] without a table.

        Cost: grows with the commits read."""
        if not self.exists(table):
            return []
        return [
            Commit(table, int(entry["version"]), {k: str(v) for k, v in entry.items()})
            for entry in delta_log.entries(self.uri(table), limit)
            if stage is None or entry.get(STAGE_KEY) == stage
        ]

    def committed(self, table: str, stage: str, digest: str) -> Commit | None:
        """The stage's newest commit if it was made from the same inputs and settings (`digest`): nothing to do then."""
        commit = self.last_commit(table, stage)
        return commit if commit is not None and commit.metadata.get(DIGEST_KEY) == digest else None

    def find_commit(self, table: str, stage: str, digest: str) -> Commit | None:
        """The stage's newest commit with this digest, however many others came later."""
        return next((c for c in self.history(table, stage) if c.metadata.get(DIGEST_KEY) == digest), None)

    # -- writing -----------------------------------------------------------------------------------------------------
    def claim(self, stage: str, run_id: str, *tables: str, decides: str | None = None) -> Claim:
        """The right to commit `stage`, to `tables`, until a newer run claims it. Take it before inputs are pinned. decides: the
        table whose commit makes the stage done and names the versions of the others (None: each stands by itself)."""
        with full_disk.named(f"{self.root}/{claims.CLAIMS}"):
            number = claims.take(self.root, stage, run_id, tables)
        deciding = tables if decides is None else (decides,)
        held = {t: self.at(t).transaction_version(stage) if self.exists(t) else None for t in deciding}
        return Claim(stage, number, held)

    def check(self, claim: Claim) -> None:
        """Raises Overtaken when a newer run has claimed the stage: before effects outside the lake."""
        claims.check(self.root, claim)

    def commit_files(
        self,
        table: str,
        paths: Iterable[str],
        provenance: Provenance,
        *,
        mode: Literal["append", "overwrite"],
        partition_filters: list[tuple[str, str, Any]] | None = None,
        removes: Iterable[str] = (),
        within: str | None = None,
    ) -> int:
        """Commit Parquet files that already lie under the table's root (paths relative to it) in one transaction.

        `overwrite` replaces the partitions selected by `partition_filters` (None: the whole table); with `append`, `removes`
        names the files of the newest version that leave it, and with `within`, paths are all that the table is to hold below
        this folder ("": anywhere). Partition values are read from the `column=value` folders. Returns the new version. Raises
        Overtaken when provenance.claim no longer holds, or another writer committed in between: nothing of ours is visible.
        """
        schema, partition_by = SCHEMAS[table], list(PARTITIONS[table])
        paths, held = sorted(paths), self._held(table, within)
        ready = {path: self._add_action(table, path) for path in paths if path not in held}  # before the claim is asked
        there = self._fenced(table, provenance.claim)
        held = self._held(table, within, there)
        adds = [ready.get(path) or self._add_action(table, path) for path in paths if path not in held]
        removes = sorted({*removes, *held.difference(paths)})
        with self._alone(table, made=there is None):
            if there is None:
                create_table_with_add_actions(
                    self.uri(table),
                    DeltaSchema.from_arrow(schema),
                    adds,
                    mode="error",
                    partition_by=partition_by,
                    commit_properties=provenance.properties(retries=0),
                    post_commithook_properties=KEEP_LOG,
                )
            else:
                there.create_write_transaction(
                    [*adds, *(self._remove_action(path) for path in removes)],
                    mode=mode,
                    schema=schema,
                    partition_by=partition_by,
                    partition_filters=partition_filters,
                    commit_properties=provenance.properties(),
                    post_commithook_properties=KEEP_LOG,
                )
        version = self.version(table)
        assert version is not None
        return version

    def write(self, table: str, rows: pa.Table, provenance: Provenance, *, replace: str | None = None) -> int:
        """Write a small table from the driver in one commit; `replace` is the SQL predicate of the rows it replaces
        (None: all of them). Returns the new version."""
        rows = rows.select(SCHEMAS[table].names).cast(SCHEMAS[table])
        there = self._fenced(table, provenance.claim)
        with self._alone(table, made=there is None):
            write_deltalake(
                self.uri(table) if there is None else there,
                rows,
                mode="overwrite",
                predicate=replace if there is not None else None,
                partition_by=list(PARTITIONS[table]) or None,
                commit_properties=provenance.properties(retries=0 if there is None else None),
                post_commithook_properties=KEEP_LOG,
            )
        version = self.version(table)
        assert version is not None
        return version

    def _held(self, table: str, within: str | None, there: DeltaTable | None = None) -> set[str]:
        """Files below a folder (None: not asked)."""
        if within is None or not self.exists(table):
            return set()
        added = pa.table((there or self.at(table)).get_add_actions())
        return {path for path in added["path"].to_pylist() if path.startswith(within)}

    def _fenced(self, table: str, claim: Claim | None) -> DeltaTable | None:
        """The newest version of the table, to commit on (None: there is none yet), after the claim was checked."""
        there = DeltaTable(self.uri(table)) if self.exists(table) else None
        if claim is not None:
            self.check(claim)
            if there is not None:
                claims.check_base(there, table, claim)
        return there

    @contextmanager
    def _alone(self, table: str, *, made: bool) -> Iterator[None]:
        """Says in our words that the disk is full, or that Delta refused a commit because another one came first; made: this
        commit makes the table."""
        try:
            with full_disk.named(self.uri(table)):
                yield
        except DeltaError as error:
            if isinstance(error, CommitFailedError) or (made and self.exists(table)):
                raise claims.Overtaken(
                    f"table {table!r}: another run committed at the same moment: this one's result does not count. Run it "
                    "again if there is still something to do"
                ) from error
            raise

    def append_at(self, table: str, base: int, rows: pa.Table, provenance: Provenance) -> int:
        """Append rows as the very next version after `base` (-1: the table does not exist yet); returns the new version.

        Raises LostRace, with nothing committed, when the table has moved on since: of writers that read the same version
        exactly one gets through."""
        rows = rows.select(SCHEMAS[table].names).cast(SCHEMAS[table])
        try:
            if base < 0:
                return self._create_with(table, rows, provenance)
            known = DeltaTable(self.uri(table), version=base)
            with full_disk.named(self.uri(table)):
                write_deltalake(
                    known,
                    rows,
                    mode="append",
                    commit_properties=provenance.properties(retries=0),
                    post_commithook_properties=KEEP_LOG,
                )
        except CommitFailedError as error:
            raise LostRace(f"{table}: somebody else has committed since version {base}") from error
        return base + 1

    def _create_with(self, table: str, rows: pa.Table, provenance: Provenance) -> int:
        """The first version, empty, may be made by anybody; the rows come as the second."""
        with full_disk.named(self.uri(table)):
            DeltaTable.create(
                self.uri(table), SCHEMAS[table], mode="ignore", partition_by=list(PARTITIONS[table]) or None
            )
        return self.append_at(table, 0, rows, provenance)

    def _add_action(self, table: str, path: str) -> AddAction:
        filesystem, root = self.filesystem(table)
        info = filesystem.get_file_info(f"{root}/{path}")
        with filesystem.open_input_file(f"{root}/{path}") as file:
            rows = pq.ParquetFile(file).metadata.num_rows
        modified = int((info.mtime_ns or 0) / 1e6)
        return AddAction(path, info.size, _partition(path), modified, True, json.dumps({"numRecords": rows}))

    @staticmethod
    def _remove_action(path: str) -> RemoveAction:
        return RemoveAction(path, True, int(time.time() * 1000), partition_values=_partition(path))


def _partition(path: str) -> dict[str, str | None]:
    folders = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {column: value for column, _, value in folders}


def count_by(table: pa.Table, column: str) -> dict[str, int]:
    """Rows by value of one column, sorted by value: the `quarantined` part of a stage's summary."""
    if table.num_rows == 0:
        return {}
    counts = pc.value_counts(table[column].combine_chunks())
    return dict(sorted((str(c["values"]), int(c["counts"])) for c in counts.to_pylist()))
