"""Stage `sessionize`: raw event files to validated, deduplicated, sessionized `interactions` (Spark)."""

from __future__ import annotations

import json
import logging

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.schema import INTERACTIONS, QUARANTINE
from mealrec.sources.landing import Landing, locate
from mealrec.stages.spark_submit import submit
from mealrec.stages.summary import StageSummary

log = logging.getLogger("mealrec.sessionize")


def sessionize(config: RunConfig, *, run_id: str = "", full: bool = False) -> StageSummary:
    """Up to date when the event files, the catalogue and the settings are those of the last commit, unless `full`."""
    lake, landing = Lake(config.lake, config.work), locate(config)
    made_from = sessionize_digest(config, landing)
    done = None if full else lake.committed(INTERACTIONS, "sessionize", made_from)
    if done is not None:
        log.info("up to date: %s version %d", INTERACTIONS, done.version)
        return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
    claim = lake.claim("sessionize", run_id, QUARANTINE, INTERACTIONS)
    arguments = ["--landing", str(landing.root), "--digest", made_from, "--run-id", run_id, "--claim", claim.to_json()]
    return StageSummary.model_validate(submit("run_sessionize", config, arguments, log))


def sessionize_digest(config: RunConfig, landing: Landing) -> str:
    """What `interactions` is made from."""
    known_videos = landing.catalogue()["video_id"].to_pylist()
    return digest("sessionize", __version__, config.sessionize, landing.events_fingerprint(), known_videos)
