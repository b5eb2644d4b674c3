"""Stage `drift`: the tables as they are now beside those the champion was trained on; drift.json says what moved.

Nothing stops here: a person, an alert or `mealrec drift --fail` acts on it.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.evaluation.drift import Quantity, duration, worst
from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.registry import flavour, promotion
from mealrec.registry.promotion import Version
from mealrec.registry.tracking import VERSION_TAG, Tracker
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, RECOMMENDATIONS, SEQUENCES
from mealrec.serving.recommender import Recommender
from mealrec.stages.drift_quantities import Sides, of_events, of_features, of_scores
from mealrec.stages.summary import StageError, StageSummary
from mealrec.stages.train import train_digest

log = logging.getLogger("mealrec.drift")

DRIFT = "drift.json"
STATE_TAG = "mealrec.drift"
TIMED = ((INTERACTIONS, "sessionize"), (SEQUENCES, "sequences"), (FEATURES, "extract"), (RECOMMENDATIONS, "recommend"))
NEWEST_COMMITS = 60  # of each table, for its stage's usual duration


def drift(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Compare events, features, scores and durations with the champion's; up to date when neither changed.

    The result goes to <work>/drift/drift.json and, as metrics, to the MLflow run of the newest model of these tables.
    Without a champion, or where it was trained on the tables as they are or on versions that are gone, only durations are
    looked at. Cost: a pass over two versions of `interactions` and `sequences`, a fixed number of videos and viewers; memory:
    the samples.
    """
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    tracker = Tracker(config.registry, lake.work)
    champion = promotion.by_alias(tracker, promotion.CHAMPION)
    now = {table: lake.at(table).version() for table in (INTERACTIONS, SEQUENCES, ITEMS, FEATURES)}
    then = _trained_on(lake, champion) if champion else now
    if then is None:
        champion, then = None, now
    made_from = _digest(config, lake, champion, then, now)
    path = lake.folder("drift") / DRIFT
    held = read(lake)
    if held is not None and held["digest"] == made_from:
        log.info("up to date: %s", path)
        return StageSummary.stored(held["summary"], None)
    quantities = _durations(config, lake)
    if champion is not None and now != then:
        quantities += _moved(config, lake, tracker, champion, then, now)
    details = {"state": worst(quantities), "champion": champion.version if champion else None, "drift": str(path)}
    summary = StageSummary(
        stage="drift",
        seconds=round(time.monotonic() - began, 3),
        rows_in=sum(q.current_rows for q in quantities),
        rows_out=len(quantities),
        skipped=champion is not None and now == then,
        details=details,
    )
    _say(champion, now != then, quantities)
    _write(path, _result(made_from, run_id, details, then, now, quantities, summary))
    _log_metrics(config, lake, tracker, quantities)
    return summary


def read(lake: Lake) -> dict[str, Any] | None:
    """The last result; None when there is none."""
    path = lake.folder("drift") / DRIFT
    return dict(json.loads(path.read_text())) if path.is_file() else None


def _trained_on(lake: Lake, champion: Version) -> dict[str, int] | None:
    """Table versions of the champion's training; the events are those that its sequences were made from. None, with a warning,
    where one of them can't be opened any more."""
    tables = {t: champion.tags.get(f"{VERSION_TAG}{t}") for t in (SEQUENCES, ITEMS, FEATURES)}
    absent = [table for table, version in tables.items() if version is None]
    if absent:
        raise StageError(f"version {champion.version} has no tag {VERSION_TAG}{absent[0]}: it can't be compared with")
    versions = {table: int(version) for table, version in tables.items() if version is not None}
    made = next((commit for commit in lake.history(SEQUENCES) if commit.version == versions[SEQUENCES]), None)
    if made is not None:
        versions |= {INTERACTIONS: int(json.loads(made.metadata["mealrec.inputs"])[INTERACTIONS])}
    gone = [f"{table} version {number}" for table, number in versions.items() if number not in lake.versions(table)]
    if made is not None and not gone:
        return versions
    words = (", ".join(gone) or f"the commit of {SEQUENCES} version {versions[SEQUENCES]}", champion.version)
    log.warning("%s, which champion %s was trained on, is no longer there: it is not compared with", *words)
    return None


def _digest(config: RunConfig, lake: Lake, champion: Version | None, then: dict[str, int], now: dict[str, int]) -> str:
    served = lake.version(RECOMMENDATIONS)
    who = (champion.version, champion.run_id) if champion else None
    return digest("drift", __version__, who, then, now, served, config.drift, lake.root)


def _moved(
    config: RunConfig, lake: Lake, tracker: Tracker, champion: Version, then: dict[str, int], now: dict[str, int]
) -> list[Quantity]:
    sides = Sides(lake, then, now, config.drift)
    with tempfile.TemporaryDirectory() as scratch:
        uri = f"models:/{config.registry.model_name}/{champion.version}"
        recommender = Recommender.load(flavour.bundle_of(tracker, uri, Path(scratch)))
        found = [*of_events(sides), *of_features(sides), *of_scores(sides, recommender)]
    return list(_present(found))


def _durations(config: RunConfig, lake: Lake) -> list[Quantity]:
    found = []
    for table, stage in TIMED:
        commits = lake.history(table, stage, NEWEST_COMMITS)
        seconds = [float(json.loads(commit.metadata[SUMMARY_KEY])["seconds"]) for commit in commits]
        found.append(duration(stage, seconds, config.drift))
    return list(_present(found))


def _present(found: Iterable[Quantity | None]) -> Iterable[Quantity]:
    return (quantity for quantity in found if quantity is not None)


def _say(champion: Version | None, changed: bool, quantities: list[Quantity]) -> None:
    if champion is None:
        log.info("there is no champion to compare with")
    elif not changed:
        log.info("nothing to compare: version %s was trained on the tables as they are", champion.version)
    for one in quantities:
        if one.state != "ok":
            words = (one.state, one.group, one.name, one.measure, one.value, one.moved)
            log.warning("%s: %s %s moved, %s %.3f (%s)", *words)


def _result(
    made_from: str,
    run_id: str,
    details: dict[str, Any],
    then: dict[str, int],
    now: dict[str, int],
    quantities: list[Quantity],
    summary: StageSummary,
) -> dict[str, Any]:
    return {
        "format": 1,
        "digest": made_from,
        "run_id": run_id,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": details["state"],
        "champion": details["champion"],
        "reference": then,
        "current": now,
        "quantities": [one.row() for one in quantities],
        "summary": summary.counts(),
    }


def _write(path: Path, result: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1))
    temporary.replace(path)


def _log_metrics(config: RunConfig, lake: Lake, tracker: Tracker, quantities: list[Quantity]) -> None:
    run = tracker.find("train", train_digest(config, lake))
    if run is None or not quantities:
        return
    values = {f"drift.{one.group}.{one.name}": one.value for one in quantities}
    tracker.log_metrics(run.run_id, values, step=0, timestamp_ms=int(time.time() * 1000))
    tracker.set_tags(run.run_id, {STATE_TAG: worst(quantities)})
