"""The stages: each a function RunConfig -> StageSummary, called alike from Python, the command line and the flow.

A stage pins the table versions that it reads, does nothing when its digest is already committed, and commits once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mealrec.stages.summary import StageSummary

# in the order in which data flows through them
STAGES = (
    "ingest",
    "sessionize",
    "sequences",
    "extract",
    "profile",
    "train",
    "evaluate",
    "drift",
    "promote",
    "recommend",
)


def stage_named(name: str) -> Callable[..., StageSummary]:
    """The stage's function, imported now: a command or flow that only names stages stays quick to load.

    Raises ValueError with the valid names.
    """
    if name not in STAGES:
        raise ValueError(f"unknown stage {name!r}; valid stages: {', '.join(STAGES)}")
    function: Callable[..., StageSummary] = getattr(importlib.import_module(f"mealrec.stages.{name}"), name)
    return function
