"""Where a training run stands: small, JSON-able, and enough to go on from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stage = Literal["warmup", "joint"]
STAGES: tuple[Stage, ...] = ("warmup", "joint")


@dataclass
class Progress:
    """stage and epochs finished in it; step: steps finished of the epoch after them, and losses: what these summed up to over
    all workers; best validation NDCG@10 of the stage and epochs since; one dict an epoch."""

    stage: Stage = "warmup"
    epoch: int = 0
    total_epochs: int = 0
    best: float = -1.0
    waited: int = 0
    finished: bool = False
    curves: list[dict[str, Any]] = field(default_factory=list)
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def best_valid(self) -> float:
        """Best validation NDCG@10 of the last stage that had an epoch, nan before the first one."""
        last = [c["ndcg@10"] for c in self.curves if c["stage"] == self.curves[-1]["stage"]]
        return max(last, default=math.nan)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Progress:
        if data.get("stage") not in STAGES:
            raise ValueError(f"checkpoint names the stage {data.get('stage')!r}; valid: {', '.join(STAGES)}")
        return cls(**data)

    def enter_next_stage(self) -> None:
        """Move on; after the last stage the run is finished."""
        at = STAGES.index(self.stage) + 1
        if at == len(STAGES):
            self.finished = True
        else:
            self.stage, self.epoch, self.best, self.waited = STAGES[at], 0, -1.0, 0
