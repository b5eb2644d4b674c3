"""Room on the disk back: files that killed or failed stages left in the lake, which no version of a table refers to."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

import pyarrow.fs as pafs

from mealrec import claims
from mealrec.lake import Lake
from mealrec.schema import SCHEMAS

log = logging.getLogger("mealrec.vacuum")


class Unfinished(RuntimeError):
    """A stage may still need files of the table that no version refers to."""


class Orphan(NamedTuple):
    """A file in a table's folder that belongs to no version of it."""

    path: str
    size: int  # bytes


def vacuum(lake: Lake, *, orphan_hours: float, dry_run: bool = False) -> dict[str, list[Orphan]]:
    """Orphans by table, deleted unless `dry_run`. Tables keep all versions that can be opened, and all their files
    while a stage that writes them has not committed. Raises ValueError for less than an hour, and for a lake without tables."""
    if orphan_hours < 1:
        raise ValueError(f"older than {orphan_hours} hours: must be at least 1")
    tables = [table for table in SCHEMAS if lake.exists(table)]
    if not tables:
        raise ValueError(f"lake {lake.root!r} holds no table: is it the right folder?")
    found: dict[str, list[Orphan]] = {}
    for table in tables:
        try:
            found[table] = clean(lake, table, orphan_hours=orphan_hours, dry_run=dry_run)
        except Unfinished as waits:
            log.info("%s; nothing is deleted", waits)
            continue
        mib = sum(orphan.size for orphan in found[table]) / 2**20
        log.info("%s: %d files, %.1f MiB%s", table, len(found[table]), mib, " would go" if dry_run else " deleted")
    return found


def clean(lake: Lake, table: str, *, orphan_hours: float, dry_run: bool = False) -> list[Orphan]:
    """Delete the files that no version of the table refers to once older than `orphan_hours`. What was deleted, or with
    `dry_run` would be. Cost: a listing, and a reading of the log for each version.

    Raises Unfinished where a stage has claimed the table and not committed: it is at work, or was killed and goes on with what
    it had finished when it is run again."""
    for claim in claims.newest(lake.root):
        if table in claim.tables and _is_open(lake, claim):
            who = f"stage {claim.stage!r} (run {claim.run_id or 'by hand'})"
            raise Unfinished(f"{table}: {who} has not committed, it may be at work or go on with its files")
    known = {path for version in lake.versions(table) for path in lake.files(table, version)}
    filesystem, root = lake.filesystem(table)
    found = []
    for info in filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        path = info.path.removeprefix(root).lstrip("/")
        is_orphan = info.type == pafs.FileType.File and not path.startswith("_delta_log") and path not in known
        if is_orphan and info.mtime_ns is not None and time.time() - info.mtime_ns / 1e9 >= orphan_hours * 3600:
            if not dry_run:
                filesystem.delete_file(info.path)
            found.append(Orphan(path, info.size))
    return found


def _is_open(lake: Lake, claim: claims.Newest) -> bool:
    committed = [lake.at(t).transaction_version(claim.stage) for t in claim.tables if lake.exists(t)]
    return claim.number > max((number for number in committed if number is not None), default=0)
