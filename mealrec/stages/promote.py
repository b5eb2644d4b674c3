"""Stage `promote`: register the evaluated model, ask the gate, move the aliases; and its reverse, `rollback`."""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mealrec.config import RunConfig
from mealrec.lake import Lake, LostRace
from mealrec.registry import flavour, promotion, trail
from mealrec.registry.card import card, description
from mealrec.registry.gate import Decision, GatePolicy, decide
from mealrec.registry.promotion import Author, Version
from mealrec.registry.tracking import EVALUATED_TAG, VERSION_TAG, RunRecord, Tracker
from mealrec.registry.trail import Entry, Trail
from mealrec.stages import evidence
from mealrec.stages.summary import StageError, StageSummary
from mealrec.stages.train import bundle_folder, packed_dataset, pinned_versions, train_digest

log = logging.getLogger("mealrec.promote")

ATTEMPTS = 5
CARD = "card.md"


def promote(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when this evaluation's version was decided before. A refused challenger is a result, not an error.

    Killed anywhere and run again it ends the same: the version is found by its evaluation, the decision by the trail, and the
    aliases follow the trail."""
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    tracker = Tracker(config.registry, lake.work)
    trained = train_digest(config, lake)
    run = tracker.find("train", trained)
    if run is None or EVALUATED_TAG not in run.tags:
        raise StageError("there is no evaluated model of these tables and settings: run `mealrec evaluate` first")
    version = promotion.by_evaluation(tracker, run.tags[EVALUATED_TAG])
    state = trail.read(lake, config.registry.model_name)
    skipped = version is not None and state.decision(version.version) is not None
    if skipped:
        assert version is not None
        log.info("up to date: version %s was decided before", version.version)
    else:
        claim = lake.claim("promote", run_id)
        if version is None:
            version = _register(config, tracker, run, bundle_folder(lake, trained), run_id, lambda: lake.check(claim))
        state = _settle(config, tracker, lake, version, run_id, lambda: lake.check(claim))
    promotion.follow(tracker, lake, state)
    return _summary(config, tracker, state, version, began, skipped=skipped)


def rollback(config: RunConfig, *, to: str | None = None, run_id: str = "") -> Version:
    """champion and previous change places, or `to` becomes champion. Raises PromotionError when that is not possible."""
    lake = Lake(config.lake, config.work)
    return promotion.rollback(Tracker(config.registry, lake.work), lake, _author(run_id), to=to)


def rival_metrics(config: RunConfig, version: str) -> tuple[str, dict[str, float]] | None:
    """Version and test metrics, by its own report, of the champion, or of the one before where `version` is the champion.

    None when there is no such version yet."""
    lake = Lake(config.lake, config.work)
    tracker = Tracker(config.registry, lake.work)
    rival = promotion.by_alias(tracker, promotion.CHAMPION)
    if rival is not None and rival.version == version:
        rival = promotion.by_alias(tracker, promotion.PREVIOUS)
    if rival is None:
        return None
    metrics: dict[str, float] = evidence.report_of(tracker, rival.run_id)[0]["metrics"]["test"]["mealrec"]
    return rival.version, metrics


def promotions(config: RunConfig) -> Sequence[Entry]:
    """The audit trail, oldest first."""
    return trail.read(Lake(config.lake, config.work), config.registry.model_name).entries


def _settle(
    config: RunConfig, tracker: Tracker, lake: Lake, version: Version, run_id: str, check: Callable[[], None]
) -> Trail:
    """Decide against whoever is champion, and again when that changed meanwhile; once, whoever else decides about the same
    version. check: raises when a newer run has taken over."""
    packed = packed_dataset(config, lake, pinned_versions(lake))
    challenger = evidence.of_challenger(config, tracker, version, packed)
    for _ in range(ATTEMPTS):
        state = trail.read(lake, config.registry.model_name)
        if state.decision(version.version) is not None:
            return state  # another promote of this evaluation was faster, or the answer to our own commit was lost
        standing = None
        if state.champion is not None:
            champion = promotion.get(tracker, state.champion)
            standing = evidence.of_champion(config, tracker, champion, packed, challenger.data_digest)
        decision = decide(challenger, standing, _policy(config))
        _say(decision)
        check()
        try:
            return promotion.settle(tracker, lake, state, version, decision, _author(run_id))
        except LostRace:
            log.warning("the champion moved while version %s was judged: it is judged again", version.version)
    raise StageError(f"version {version.version} was overtaken {ATTEMPTS} times: run promote again")


def _register(
    config: RunConfig, tracker: Tracker, run: RunRecord, bundle: Path, run_id: str, check: Callable[[], None]
) -> Version:
    """check: raises when a newer run has taken over; asked after the slow part, just before the registry changes."""
    uri = flavour.log_model(tracker, run.run_id, bundle)
    now = _now()
    report, _ = evidence.report_of(tracker, run.run_id)
    text = card(report, name=config.registry.model_name, trained=now, baselines=config.registry.baselines)
    tracker.log_text(run.run_id, text, CARD)
    tags = {EVALUATED_TAG: run.tags[EVALUATED_TAG], "mealrec.run_id": run_id, "mealrec.registered": now}
    tags |= {k: v for k, v in run.tags.items() if k.startswith(VERSION_TAG)}
    check()
    version = promotion.register(tracker, uri, run.run_id, tags, description(text))
    log.info("registered %s version %s", config.registry.model_name, version.version)
    return version


def _policy(config: RunConfig) -> GatePolicy:
    asked = config.registry
    return GatePolicy(
        metric=asked.gate_metric,
        baselines=asked.baselines,
        confidence=asked.confidence,
        samples=config.evaluate.bootstrap,
        seed=config.seed,
        against_champion=asked.against_champion,
        min_viewers=asked.min_viewers,
        min_slice_viewers=asked.min_slice_viewers,
        min_coverage=asked.min_coverage,
        max_latency_ms=asked.max_latency_ms,
    )


def _say(decision: Decision) -> None:
    for check in decision.checks:
        log.info("gate: %s %s", "ok  " if check.passed else "FAIL", check.words)


def _summary(
    config: RunConfig, tracker: Tracker, state: Trail, version: Version, began: float, *, skipped: bool
) -> StageSummary:
    decided = state.decision(version.version)
    assert decided is not None
    passed = decided.action == "promoted"
    model = {
        "name": config.registry.model_name,
        "version": version.version,
        "aliases": list(promotion.get(tracker, version.version).aliases),
        "gate": {"passed": passed, "reasons": list(decided.reasons)},
    }
    return StageSummary(
        stage="promote",
        seconds=round(time.monotonic() - began, 3),
        rows_in=1,
        rows_out=int(passed),
        skipped=skipped,
        details={"model": model},
    )


def _author(run_id: str) -> Author:
    return Author(getpass.getuser(), _now(), run_id)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
