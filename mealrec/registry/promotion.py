"""Versions and aliases in MLflow's registry, moved by the audit trail.

champion is what serves, previous what served before it, challenger the newest candidate. Who may move them is decided by the
trail (mealrec.registry.trail); `follow` then sets the aliases to what the trail says, and may be repeated by anybody.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from mealrec.lake import Lake
from mealrec.registry import trail as audit
from mealrec.registry.gate import Decision
from mealrec.registry.tracking import EVALUATED_TAG, Tracker
from mealrec.registry.trail import Entry, Trail
from mealrec.schema import PROMOTIONS

log = logging.getLogger("mealrec.promotion")

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
GATE_TAG, REASONS_TAG, MOVES_TAG = "mealrec.gate", "mealrec.gate_reasons", "mealrec.moves"
LONGEST_TAG = 4000


class PromotionError(ValueError):
    """The registry is not in a state that allows what was asked; the message says what is there."""


@dataclass(frozen=True)
class Author:
    """Who decides, when (ISO 8601, UTC) and in which flow run (empty: a command)."""

    who: str
    when: str
    run_id: str = ""


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
    """Aliases are read with the version: MLflow's search does not fill them. Raises PromotionError for an unknown one."""
    try:
        found = tracker.client.get_model_version(tracker.config.model_name, version)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        raise PromotionError(f"there is no version {version} of {tracker.config.model_name}") from None
    return Version(str(found.version), found.run_id, tuple(sorted(found.aliases)), dict(found.tags))


def by_evaluation(tracker: Tracker, evaluation_digest: str) -> Version | None:
    """The version that was registered for an evaluation, if any: registering is idempotent by it."""
    query = f"name = '{tracker.config.model_name}' and tags.`{EVALUATED_TAG}` = '{evaluation_digest}'"
    found = tracker.client.search_model_versions(query, max_results=1)
    return get(tracker, found[0].version) if found else None


def register(tracker: Tracker, uri: str, run_id: str, tags: dict[str, str], description: str = "") -> Version:
    """A new version of the model with alias challenger. Its tags come with it in one step, so that a process killed right
    after leaves a version that is found again and not a second one."""
    name = tracker.config.model_name
    try:
        tracker.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        tracker.client.create_registered_model(name, description="Micro-video recommendation (TCD + NPD)")
    made = tracker.client.create_model_version(
        name,
        source=uri,
        run_id=run_id,
        tags=tags,
        description=description,
        # a server refuses a logged model's address without its id
        model_id=uri.removeprefix("models:/") if uri.startswith("models:/m-") else None,
    )
    tracker.client.set_registered_model_alias(name, CHALLENGER, made.version)
    return get(tracker, made.version)


def settle(tracker: Tracker, lake: Lake, trail: Trail, version: Version, decision: Decision, author: Author) -> Trail:
    """Write the gate's decision about a version, made from `trail`; a version that passed is champion from then on.

    Raises mealrec.lake.LostRace when somebody else decided in between: the decision has to be made again, against whoever
    is champion now."""
    action: audit.Action = "promoted" if decision.passed else "refused"
    entry = Entry(
        model=tracker.config.model_name,
        action=action,
        version=version.version,
        from_version=trail.champion,
        who=author.who,
        when=author.when,
        reasons=tuple(decision.reasons),
        run_id=author.run_id,
    )
    return audit.append(lake, trail, entry)


def rollback(tracker: Tracker, lake: Lake, author: Author, *, to: str | None = None) -> Version:
    """champion and previous change places; with `to`, that version becomes champion. Raises PromotionError when there is
    nothing to go back to or the gate never passed `to`, LostRace when somebody else moved the champion meanwhile."""
    name = tracker.config.model_name
    trail = audit.read(lake, name)
    if trail.champion is None:
        raise PromotionError("nothing to roll back: no champion")
    target = to or trail.previous
    if target is None:
        raise PromotionError(
            f"nothing to roll back: champion is version {trail.champion}, but there is no previous one"
        )
    if target == trail.champion:
        raise PromotionError(f"nothing to roll back: version {target} is champion already")
    get(tracker, target)
    passed = trail.decision(target)
    if passed is None or passed.action != "promoted":
        why = "the gate was never asked" if passed is None else f"the gate refused it: {'; '.join(passed.reasons)}"
        raise PromotionError(f"version {target} of {name} can't be champion: {why}")
    why = "asked for by name" if to else "back to the version before"
    entry = Entry(name, "rolled back", target, trail.champion, author.who, author.when, (why,), author.run_id)
    follow(tracker, lake, audit.append(lake, trail, entry))
    return get(tracker, target)


def follow(tracker: Tracker, lake: Lake, trail: Trail) -> Trail:
    """Set the aliases and tags to what the trail says, until it has not moved meanwhile; returns the trail followed.

    Repeating it changes nothing. A slower process that followed an older trail finds the newer one and follows that."""
    while True:
        _tag(tracker, trail)
        moved = trail.moved
        if moved is not None:
            _point(tracker, PREVIOUS, moved.from_version)
            _point(tracker, CHAMPION, moved.version)
        if (lake.version(PROMOTIONS) or 0) <= trail.base:
            return trail
        trail = audit.read(lake, trail.model)


def _point(tracker: Tracker, alias: str, version: str | None) -> None:
    name, there = tracker.config.model_name, by_alias(tracker, alias)
    if version is not None and (there is None or there.version != version):
        _first_or_second(lambda: tracker.client.set_registered_model_alias(name, alias, version))
    if version is None and there is not None:
        tracker.client.delete_registered_model_alias(name, alias)


def _tag(tracker: Tracker, trail: Trail) -> None:
    """The newest entry's version shows the gate's decision and its moves in the registry's own pages."""
    if not trail.entries:
        return
    name, version = trail.model, trail.entries[-1].version
    decision = trail.decision(version)
    tags = {}
    if decision is not None:
        tags[GATE_TAG] = "passed" if decision.action == "promoted" else "refused"
        tags[REASONS_TAG] = json.dumps(_within(decision.reasons))
    moves = [
        {"move": e.action, "from": e.from_version, "who": e.who, "when": e.when}
        for e in trail.entries
        if e.version == version and e.action in audit.MOVES
    ]
    if moves:
        tags[MOVES_TAG] = json.dumps(moves[-10:])
    known = get(tracker, version).tags
    for key, value in tags.items():
        if known.get(key) != value:
            _first_or_second(partial(tracker.client.set_model_version_tag, name, version, key, value))


def _first_or_second(write: Callable[[], object]) -> None:
    """MLflow's store inserts a tag or alias that it did not find, and fails where somebody else did so at the same moment: the
    second attempt finds it and updates it."""
    try:
        write()
    except MlflowException as error:
        log.warning("the registry refused a write that it is asked for again: %s", str(error).splitlines()[0])
        write()


def _within(reasons: tuple[str, ...]) -> list[str]:
    """As many reasons as a tag can hold."""
    kept = list(reasons)
    while len(json.dumps(kept)) > LONGEST_TAG:
        kept.pop()
    return kept
