"""The lake as serving sees it: read-only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mealrec.config import RunConfig
from mealrec.lake import THROUGH_KEY, Lake
from mealrec.schema import SEQUENCES


@dataclass(frozen=True)
class World:
    """The run whose tables and registry are served."""

    config: RunConfig

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.config.lake, self.config.work)

    def sequences(self) -> int | None:
        """The version of `sequences` that is served."""
        return served_sequences(self.lake, self.config.source.through)


def served_sequences(lake: Lake, through: str | None) -> int | None:
    """The newest version that leaves out no event file, or those of the days after `through`: the ones of a backfill are passed
    over. Where every version leaves out others, the newest; None without a table. Cost: its last commit; all in a backfill."""
    for limit in (1, None):
        for commit in lake.history(SEQUENCES, limit=limit):
            if commit.metadata.get(THROUGH_KEY, "") in ("", through):
                return commit.version
    return lake.version(SEQUENCES)
