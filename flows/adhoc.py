"""Any single stage, for example on a given Ray cluster (config.ray.address)."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from flows import hooks, sweep
from flows.stages import TASKS
from mealrec.config import RunConfig

StageName = Literal[
    "ingest", "sessionize", "sequences", "extract", "profile", "train", "evaluate", "drift", "promote", "recommend"
]


@flow(name="mealrec-adhoc", persist_result=False, **hooks.ON)
def adhoc(config: RunConfig, stage: StageName) -> dict[str, Any]:
    """Run one stage; returns its summary."""
    sweep.before_a_run()
    summary: dict[str, Any] = TASKS[stage](config).model_dump()
    return summary
