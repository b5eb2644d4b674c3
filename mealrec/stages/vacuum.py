"""Room on the disk back: files that killed or failed stages left in the lake, which no version of a table refers to."""

from __future__ import annotations

import logging

from mealrec.lake import Lake, Orphan
from mealrec.schema import SCHEMAS

log = logging.getLogger("mealrec.vacuum")


def vacuum(lake: Lake, *, orphan_hours: float, dry_run: bool = False) -> dict[str, list[Orphan]]:
    """Orphans by table, deleted unless `dry_run`. Tables keep all their versions. Raises ValueError for less than an hour, in
    which a stage may still be about to commit."""
    if orphan_hours < 1:
        raise ValueError(f"older than {orphan_hours} hours: at least 1, and longer than the longest stage runs")
    found: dict[str, list[Orphan]] = {}
    for table in SCHEMAS:
        if not lake.exists(table):
            continue
        found[table] = lake.vacuum(table, orphan_hours=orphan_hours, dry_run=dry_run)
        mib = sum(orphan.size for orphan in found[table]) / 2**20
        log.info("%s: %d files, %.1f MiB%s", table, len(found[table]), mib, " would go" if dry_run else " deleted")
    return found
