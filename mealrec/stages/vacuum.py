"""Room on the disk back: files that killed or failed stages left in the lake, which no version of a table refers to."""

from __future__ import annotations

import logging

from mealrec.lake import Lake, Orphan, Unfinished
from mealrec.schema import SCHEMAS

log = logging.getLogger("mealrec.vacuum")


def vacuum(lake: Lake, *, orphan_hours: float, dry_run: bool = False) -> dict[str, list[Orphan]]:
    """Orphans by table, deleted unless `dry_run`. Tables keep all their versions, and all their files while a stage that writes
    them has not committed. Raises ValueError for less than an hour, and for a lake without tables."""
    if orphan_hours < 1:
        raise ValueError(f"older than {orphan_hours} hours: must be at least 1")
    tables = [table for table in SCHEMAS if lake.exists(table)]
    if not tables:
        raise ValueError(f"lake {lake.root!r} holds no table: is it the right folder?")
    found: dict[str, list[Orphan]] = {}
    for table in tables:
        try:
            found[table] = lake.vacuum(table, orphan_hours=orphan_hours, dry_run=dry_run)
        except Unfinished as waits:
            log.info("%s; nothing is deleted", waits)
            continue
        mib = sum(orphan.size for orphan in found[table]) / 2**20
        log.info("%s: %d files, %.1f MiB%s", table, len(found[table]), mib, " would go" if dry_run else " deleted")
    return found
