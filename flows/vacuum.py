"""Room on the disk back, once a week."""

from __future__ import annotations

from prefect import flow

from flows import hooks
from mealrec.config import RunConfig


@flow(name="mealrec-vacuum", persist_result=False, **hooks.ON)
def vacuum(config: RunConfig, older_than_hours: float = 168.0) -> dict[str, int]:
    """Delete what killed stages left in the lake's folders; returns the number of files by table."""
    from mealrec.lake import Lake
    from mealrec.stages.vacuum import vacuum as clean

    found = clean(Lake(config.lake, config.work), orphan_hours=older_than_hours)
    return {table: len(orphans) for table, orphans in found.items()}
