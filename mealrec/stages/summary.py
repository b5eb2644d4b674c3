"""What a stage reports at its end, and how a finished stage is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class StageError(RuntimeError):
    """A stage stopped before its commit; the message says why and what to do."""


class EngineLost(RuntimeError):
    """What a stage stands on failed it: a process that was killed, a disk that took no more. Nothing was committed, and the
    same run may pass later, where one that ended in a StageError would end in it again."""


class StageSummary(BaseModel):
    """Rows in and out of one stage, rejected by reason, and the version it committed (the contract of summary.json)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    seconds: float
    rows_in: int
    rows_out: int
    quarantined: dict[str, int] = Field(default_factory=dict)
    table: str | None = None
    version: int | None = None
    skipped: bool = False
    details: dict[str, Any] = Field(default_factory=dict, description="stage-specific figures")

    def up_to_date(self, version: int | None) -> StageSummary:
        """The same figures for a run that had nothing to do."""
        return self.model_copy(update={"skipped": True, "version": version})

    def counts(self) -> dict[str, Any]:
        """What is stored in the commit: everything but the version, which the commit itself gives."""
        return self.model_dump(exclude={"version", "skipped"})

    @classmethod
    def stored(cls, counts: Mapping[str, Any], version: int | None) -> StageSummary:
        """Rebuild the summary that a commit carries, marked as skipped."""
        return cls(**dict(counts), version=version, skipped=True)
