"""Stage `sessionize`: raw event files to validated, deduplicated, sessionized `interactions` (Spark)."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os

from mealrec import __version__
from mealrec.claims import Claim
from mealrec.config import RunConfig, digest
from mealrec.lake import SUMMARY_KEY, Lake
from mealrec.schema import INPUTS, INTERACTIONS, QUARANTINE
from mealrec.sources.landing import Landing, locate
from mealrec.stages.spark_submit import submit
from mealrec.stages.summary import StageSummary

FORM = 4  # of the tables: a newer form is made anew as a whole
OF_SEQUENCES = {"user_core", "item_core", "buckets", "valid_share", "test_share"}
OF_NO_ROW = {"max_quarantine_share"}  # says when to stop, not what a record becomes

log = logging.getLogger("mealrec.sessionize")


def sessionize(config: RunConfig, *, run_id: str = "", full: bool = False) -> StageSummary:
    """Up to date when the event files, the catalogue and the settings are those of the last commit, unless `full`."""
    lake, landing = Lake(config.lake, config.work), locate(config)
    made_from = sessionize_digest(config, landing)
    done = None if full else lake.committed(INTERACTIONS, "sessionize", made_from)
    if done is not None:
        log.info("up to date: %s version %d", INTERACTIONS, done.version)
        return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
    held = claim(lake, run_id)
    arguments = ["--landing", str(landing.root), "--digest", made_from, "--run-id", run_id, "--claim", held.to_json()]
    arguments += ["--full"] if full else []
    return StageSummary.model_validate(submit("run_sessionize", config, arguments, log))


def claim(lake: Lake, run_id: str) -> Claim:
    """To commit the stage's three tables; that of `interactions` names the versions of the others."""
    return lake.claim("sessionize", run_id, QUARANTINE, INPUTS, INTERACTIONS, decides=INTERACTIONS)


def sessionize_digest(config: RunConfig, landing: Landing) -> str:
    """What `interactions` is made from."""
    known_videos = landing.catalogue()["video_id"].to_pylist()
    return digest("sessionize", settings_digest(config), landing.events_fingerprint(), known_videos)


def settings_digest(config: RunConfig) -> str:
    """What every record is judged by, the files and the catalogue apart: a night can build on one with the same."""
    judged_by = config.sessionize.model_dump(mode="json", exclude=OF_SEQUENCES | OF_NO_ROW)
    columns = {name: rule.model_dump() for name, rule in config.source.columns.items()}
    variable = config.sessionize.viewer_key_variable
    key = os.environ.get(variable, "") if variable else ""
    sign = hmac.new(key.encode(), b"mealrec viewer key", hashlib.sha256).hexdigest()[:16] if variable else ""
    return digest("sessionize", FORM, __version__, judged_by, columns, sign)
