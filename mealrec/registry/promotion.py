"""Versions, aliases and their audit trail in MLflow's registry.

champion is what serves, previous what served before it, challenger the newest candidate. MLflow keeps no history of aliases,
so every move is written into tags of the version it concerns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from mealrec.registry.gate import Decision
from mealrec.registry.tracking import EVALUATED_TAG, Tracker

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
GATE_TAG, REASONS_TAG, MOVES_TAG = "mealrec.gate", "mealrec.gate_reasons", "mealrec.moves"
LONGEST_TAG = 4000


class PromotionError(ValueError):
    """The registry is not in a state that allows what was asked; the message says what is there."""


@dataclass(frozen=True)
class Version:
    """A registered version."""

    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def gate(self) -> dict[str, Any]:
        return {
            "passed": self.tags.get(GATE_TAG) == "passed",
            "reasons": json.loads(self.tags.get(REASONS_TAG, "[]")),
        }


def by_alias(tracker: Tracker, alias: str) -> Version | None:
    try:
        found = tracker.client.get_model_version_by_alias(tracker.config.model_name, alias)
    except MlflowException as error:
        # the store answers an unknown alias with INVALID_PARAMETER_VALUE, an unknown model with RESOURCE_DOES_NOT_EXIST
        if error.error_code in (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return get(tracker, found.version)


def get(tracker: Tracker, version: str) -> Version:
    """Aliases are read with the version: MLflow's search does not fill them."""
    found = tracker.client.get_model_version(tracker.config.model_name, version)
    return Version(str(found.version), found.run_id, tuple(sorted(found.aliases)), dict(found.tags))


def by_evaluation(tracker: Tracker, evaluation_digest: str) -> Version | None:
    """The version that was registered for an evaluation, if any: registering is idempotent by it."""
    query = f"name = '{tracker.config.model_name}' and tags.`{EVALUATED_TAG}` = '{evaluation_digest}'"
    found = tracker.client.search_model_versions(query, max_results=1)
    return get(tracker, found[0].version) if found else None


def register(tracker: Tracker, uri: str, run_id: str, tags: dict[str, str]) -> Version:
    """A new version of the model with alias challenger."""
    name = tracker.config.model_name
    try:
        tracker.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        tracker.client.create_registered_model(name, description="Micro-video recommendation (TCD + NPD)")
    made = tracker.client.create_model_version(name, source=uri, run_id=run_id, tags=tags)
    tracker.client.set_registered_model_alias(name, CHALLENGER, made.version)
    return get(tracker, made.version)


def record(tracker: Tracker, version: Version, decision: Decision) -> Version:
    """Write the gate's decision into the version's tags."""
    name = tracker.config.model_name
    reasons = json.dumps(decision.reasons)[:LONGEST_TAG]
    tracker.client.set_model_version_tag(name, version.version, REASONS_TAG, reasons)
    tracker.client.set_model_version_tag(name, version.version, GATE_TAG, "passed" if decision.passed else "refused")
    return get(tracker, version.version)


def promote(tracker: Tracker, version: Version, *, who: str, when: str) -> Version:
    """Make a version whose gate passed the champion; the old one becomes previous. Raises PromotionError otherwise."""
    if not version.gate["passed"]:
        raise PromotionError(f"version {version.version} did not pass the gate: {version.gate['reasons']}")
    old = by_alias(tracker, CHAMPION)
    if old is not None and old.version == version.version:
        return old
    name = tracker.config.model_name
    if old is not None:
        tracker.client.set_registered_model_alias(name, PREVIOUS, old.version)
    tracker.client.set_registered_model_alias(name, CHAMPION, version.version)
    _note(tracker, version, {"move": "promoted", "from": old.version if old else None, "who": who, "when": when})
    return get(tracker, version.version)


def rollback(tracker: Tracker, *, who: str, when: str) -> Version:
    """champion and previous change places. Raises PromotionError when there is nothing to go back to."""
    current, before = by_alias(tracker, CHAMPION), by_alias(tracker, PREVIOUS)
    if current is None or before is None:
        there = (
            "no champion" if current is None else f"champion is version {current.version}, but there is no previous one"
        )
        raise PromotionError(f"nothing to roll back: {there}")
    name = tracker.config.model_name
    tracker.client.set_registered_model_alias(name, CHAMPION, before.version)
    tracker.client.set_registered_model_alias(name, PREVIOUS, current.version)
    _note(tracker, before, {"move": "rolled back to", "from": current.version, "who": who, "when": when})
    return get(tracker, before.version)


def _note(tracker: Tracker, version: Version, move: dict[str, Any]) -> None:
    moves = [*json.loads(version.tags.get(MOVES_TAG, "[]")), move]
    tracker.client.set_model_version_tag(tracker.config.model_name, version.version, MOVES_TAG, json.dumps(moves))
