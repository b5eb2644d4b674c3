"""Stage `ingest`: bring a source into the landing folder."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mealrec.config import ConfigError, RunConfig
from mealrec.sources.landing import locate
from mealrec.stages.summary import StageSummary

log = logging.getLogger("mealrec.ingest")


def ingest(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Simulate, read a public set, or check the user's own landing folder. Up to date when the landing holds the result.

    Raises SourceError naming the file that is missing or wrong, ConfigError for a public set that is older than
    sessionize.earliest."""
    began = time.monotonic()
    landing, source = locate(config), config.source
    details: dict[str, object] = {"landing": str(landing.root)}
    if source.kind == "simulated":
        from mealrec.sources.simulated import simulate
        from mealrec.sources.simulated.truth import TRUTH

        skipped = (landing.root / TRUTH).is_file()
        truth = simulate(
            landing.root,
            videos=source.videos,
            viewers=source.viewers,
            days=source.days,
            seed=config.seed,
            clips=Path(source.clips) if source.clips else None,
        )
        rows = truth.rows["written"]
        details |= {"videos": len(truth.salience)}
    elif source.kind == "landing":
        skipped, rows = True, 0
        details |= {"files": len(landing.event_files()), "videos": landing.catalogue().num_rows}
    else:
        from mealrec.sources.kuai import read_kuairand, read_kuairec
        from mealrec.sources.microlens import read_microlens
        from mealrec.sources.ninerec import read_ninerec
        from mealrec.sources.recbole import read_recbole

        readers = {
            "ninerec": read_ninerec,
            "microlens": read_microlens,
            "recbole": read_recbole,
            "kuairec": read_kuairec,
            "kuairand": read_kuairand,
        }
        found, skipped = readers[source.kind](Path(source.directory or ""), landing)
        _expect_times_to_be_believed(found, config.sessionize.earliest)
        rows = int(found["interactions"])
        details |= {"videos": found["videos"], "synthetic_time": found["synthetic_time"]}
    log.info("landing %s: %s", "up to date" if skipped else "written", landing.root)
    return StageSummary(
        stage="ingest",
        seconds=round(time.monotonic() - began, 3),
        rows_in=rows,
        rows_out=rows,
        skipped=skipped,
        details=details,
    )


def _expect_times_to_be_believed(found: dict[str, Any], earliest: str) -> None:
    """Before sessions are made: each event before `earliest` will be quarantined, and with all of them nothing is left."""
    first, last = found.get("first_ms"), found.get("last_ms")
    bound = datetime.fromisoformat(earliest).replace(tzinfo=UTC).timestamp() * 1000
    if first is None or last is None or first >= bound:
        return
    if last < bound:
        raise ConfigError(
            f"every event of this set is before sessionize.earliest={earliest} and would be quarantined as impossible_time: "
            f"they are of {_day(first)} to {_day(last)}; set sessionize.earliest={_day(first)}"
        )
    log.warning(
        "events before sessionize.earliest=%s will be quarantined as impossible_time: the first is of %s",
        earliest,
        _day(first),
    )


def _day(ms: int) -> str:
    try:
        return (datetime(1970, 1, 1) + timedelta(milliseconds=ms)).date().isoformat()
    except OverflowError:
        return f"{ms} ms"
