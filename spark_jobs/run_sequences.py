"""spark-submit spark_jobs/run_sequences.py --config run.json --landing DIR --summary out.json

Table `interactions` (newest version) and the catalogue -> tables `items` and `sequences`.
"""

from __future__ import annotations

import time
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from mealrec.lake import Provenance
from mealrec.schema import INTERACTIONS, ITEMS, SEQUENCES
from mealrec.stages.summary import StageSummary
from spark_jobs.items import items
from spark_jobs.job import Job, main
from spark_jobs.places import Places
from spark_jobs.sequences import split_times
from spark_jobs.write import write_files


def run(job: Job) -> dict[str, Any]:
    began = time.monotonic()
    config = job.config.sessionize
    pinned = job.lake.version(INTERACTIONS)
    if pinned is None:
        raise ValueError(f"table {INTERACTIONS!r} does not exist: run `mealrec sessionize` first")
    places = Places(job, pinned)
    catalogue = job.spark.createDataFrame(job.landing.catalogue().select(["video_id"]))
    known = _table(job, ITEMS, job.lake.version(ITEMS)) if job.lake.exists(ITEMS) else None
    seen = places.videos().persist(StorageLevel.MEMORY_AND_DISK)
    index = items(catalogue, seen, known).persist(StorageLevel.MEMORY_AND_DISK)
    core = places.core(config.user_core, config.item_core)
    named = int(index.agg(F.sum("interactions")).first()[0])
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
    numbers = index.select("video_id", "item_index").toArrow()
    table = places.sequences(core, numbers, times, buckets=config.buckets)
    viewers, kept = core.facts.viewers, core.facts.pairs
    item_files = write_files(index, job.lake, ITEMS, "item_index")
    sequence_files = write_files(table, job.lake, SEQUENCES, "user_id")
    summary = StageSummary(
        stage="sequences",
        seconds=round(time.monotonic() - began, 3),
        rows_in=core.facts.interactions,
        rows_out=viewers,
        table=SEQUENCES,
        details={
            "items": len(numbers),
            "interactions": kept,
            "mean_length": round(kept / viewers, 2),
            "kcore_rounds": core.rounds,
            "temporal_split_ms": list(times),
        },
    )
    made = Provenance("sequences", job.digest, job.run_id, {INTERACTIONS: pinned}, summary.counts(), claim=job.claim)
    job.lake.commit_files(ITEMS, item_files, made, mode="overwrite")
    version = job.lake.commit_files(SEQUENCES, sequence_files, made, mode="overwrite")
    job.say(f"committed {SEQUENCES} version {version}: {viewers} viewers, {kept} interactions")
    return summary.model_copy(update={"version": version}).model_dump()


def _table(job: Job, table: str, version: int | None) -> DataFrame:
    files = job.lake.file_uris(table, version)
    return job.spark.read.option("basePath", job.lake.uri(table)).parquet(*files)


if __name__ == "__main__":
    main("run_sequences.py", __doc__ or "", run)
