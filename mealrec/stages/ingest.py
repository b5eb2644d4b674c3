"""Stage `ingest`: bring a source into the landing folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from mealrec.config import RunConfig
from mealrec.sources.landing import locate
from mealrec.stages.summary import StageSummary

log = logging.getLogger("mealrec.ingest")


def ingest(config: RunConfig, *, run_id: str = "") -> StageSummary:
    """Simulate, read a public set, or check the user's own landing folder. Up to date when the landing holds the result.

    Raises SourceError naming the file that is missing or wrong."""
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
