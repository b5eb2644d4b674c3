"""Stage `sessionize`: raw event files to validated, deduplicated, sessionized `interactions` (Spark)."""

from __future__ import annotations

import json
import logging

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.schema import INTERACTIONS
from mealrec.sources.landing import locate
from mealrec.stages.spark_submit import submit
from mealrec.stages.summary import StageSummary

log = logging.getLogger("mealrec.sessionize")


def sessionize(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when the event files, the catalogue and the settings are those of the last commit."""
    lake, landing = Lake(config.lake, config.work), locate(config)
    known_videos = landing.catalogue()["video_id"].to_pylist()
    made_from = digest("sessionize", __version__, config.sessionize, landing.events_fingerprint(), known_videos)
    done = lake.committed(INTERACTIONS, "sessionize", made_from)
    if done is not None:
        log.info("up to date: %s version %d", INTERACTIONS, done.version)
        return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
    arguments = ["--landing", str(landing.root), "--digest", made_from, "--run-id", run_id]
    return StageSummary.model_validate(submit("run_sessionize", config, arguments, log))
