"""Promotion by hand: the gate for the newest evaluated model, or back to the version before."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from flows import hooks, sweep
from flows.stages import promote as promote_stage
from mealrec.config import RunConfig


@flow(name="mealrec-promote", persist_result=False, **hooks.ON)
def promote(
    config: RunConfig, action: Literal["promote", "rollback"] = "promote", to: str | None = None
) -> dict[str, Any]:
    """`promote` asks the gate and moves the aliases; `rollback` exchanges champion and previous, or makes `to` champion."""
    sweep.before_a_run()
    if action == "rollback":
        from mealrec.stages.promote import rollback

        version = rollback(config, to=to)
        return {"version": version.version, "aliases": list(version.aliases)}
    model: dict[str, Any] = promote_stage(config).details["model"]
    return model
