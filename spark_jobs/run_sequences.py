"""spark-submit spark_jobs/run_sequences.py --config run.json --landing DIR --summary out.json

Table `interactions` (newest version) and the catalogue -> tables `items` and `sequences`.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mealrec.lake import THROUGH_KEY, Lake, Provenance
from mealrec.schema import INTERACTIONS, ITEMS, SEQUENCES
from mealrec.stages.summary import StageSummary
from spark_jobs.items import NOTHING_KNOWN, items
from spark_jobs.job import Job, main
from spark_jobs.parts import Parts
from spark_jobs.places import Places
from spark_jobs.sequences import split_times


def run(job: Job) -> dict[str, Any]:
    began = time.monotonic()
    config = job.config.sessionize
    pinned = job.lake.version(INTERACTIONS)
    if pinned is None:
        raise ValueError(f"table {INTERACTIONS!r} does not exist: run `mealrec sessionize` first")
    places = Places(job, pinned)
    catalogue = job.landing.catalogue()["video_id"].combine_chunks()
    index = items(catalogue, places.videos(), _known(job.lake))
    core = places.core(config.user_core, config.item_core)
    named = pc.sum(index["interactions"]).as_py() or 0
    if named < core.facts.interactions:
        raise ValueError(
            f"{core.facts.interactions - named} of {core.facts.interactions} interactions are of videos that the "
            "catalogue does not name: run `mealrec sessionize` first"
        )
    if not core.facts.pairs:
        raise ValueError(
            f"no viewer is left after the k-core (user_core={config.user_core}, item_core={config.item_core}): "
            "lower them or check sessionize.min_watch_ratio and sessionize.positive_events"
        )
    span = core.facts.first_ms, core.facts.last_ms
    times = split_times(*span, valid_share=config.valid_share, test_share=config.test_share)
    job.say(f"k-core settled after {core.rounds} rounds; writing items and sequences")
    sequence_files = places.write(core, index.select(NOTHING_KNOWN.column_names), times)
    with Parts(job.lake, ITEMS) as item_parts:
        item_parts.write({}, index)
    viewers, kept = core.facts.viewers, core.facts.pairs
    summary = StageSummary(
        stage="sequences",
        seconds=round(time.monotonic() - began, 3),
        rows_in=core.facts.interactions,
        rows_out=viewers,
        table=SEQUENCES,
        details={
            "items": len(index),
            "interactions": kept,
            "mean_length": round(kept / viewers, 2),
            "kcore_rounds": core.rounds,
            "temporal_split_ms": list(times),
        },
    )
    inputs, through = {INTERACTIONS: pinned}, _through(job.lake, pinned)
    made = Provenance("sequences", job.digest, job.run_id, inputs, summary.counts(), job.claim, through)
    job.lake.commit_files(ITEMS, item_parts.paths, made, mode="overwrite")
    version = job.lake.commit_files(SEQUENCES, sequence_files, made, mode="overwrite")
    job.say(f"committed {SEQUENCES} version {version}: {viewers} viewers, {kept} interactions")
    return summary.model_copy(update={"version": version}).model_dump()


def _through(lake: Lake, interactions: int) -> str:
    """What that version says, whichever event files there are now."""
    commit = next((one for one in lake.history(INTERACTIONS) if one.version == interactions), None)
    return "" if commit is None else commit.metadata.get(THROUGH_KEY, "")


def _known(lake: Lake) -> pa.Table:
    """video_id and item_index of the newest version of `items`."""
    return lake.read(ITEMS, columns=NOTHING_KNOWN.column_names) if lake.exists(ITEMS) else NOTHING_KNOWN


if __name__ == "__main__":
    main("run_sequences.py", __doc__ or "", run)
