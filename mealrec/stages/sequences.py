"""Stage `sequences`: `interactions` to the item index and chronological viewer sequences (Spark)."""

from __future__ import annotations

import json
import logging

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.schema import INTERACTIONS, ITEMS, SEQUENCES
from mealrec.sources.landing import Landing, locate
from mealrec.stages.sessionize import OF_SEQUENCES
from mealrec.stages.spark_submit import submit
from mealrec.stages.summary import StageSummary

log = logging.getLogger("mealrec.sequences")


def sequences(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Up to date when `interactions`, the catalogue's videos and the settings are those of the last commit."""
    lake, landing = Lake(config.lake, config.work), locate(config)
    made_from = sequences_digest(config, landing, lake.at(INTERACTIONS).version())
    done = lake.committed(SEQUENCES, "sequences", made_from)
    if done is not None:
        log.info("up to date: %s version %d", SEQUENCES, done.version)
        return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
    claim = lake.claim("sequences", run_id, ITEMS, SEQUENCES)
    arguments = ["--landing", str(landing.root), "--digest", made_from, "--run-id", run_id, "--claim", claim.to_json()]
    return StageSummary.model_validate(submit("run_sequences", config, arguments, log))


def sequences_digest(config: RunConfig, landing: Landing, interactions: int) -> str:
    """What `sequences` is made from; `interactions` is that table's version."""
    known_videos = landing.catalogue()["video_id"].to_pylist()
    own = config.sessionize.model_dump(mode="json", include=OF_SEQUENCES)
    return digest("sequences", __version__, own, interactions, known_videos)
