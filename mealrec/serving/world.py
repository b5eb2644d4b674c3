"""The lake as serving sees it: read-only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mealrec.config import RunConfig
from mealrec.lake import Lake


@dataclass(frozen=True)
class World:
    """The run whose tables and registry are served."""

    config: RunConfig

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.config.lake, self.config.work)
