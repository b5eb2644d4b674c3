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
from spark_jobs.kcore import kcore
from spark_jobs.sequences import positive_pairs, sequences, split_times
from spark_jobs.write import write_files


def run(job: Job) -> dict[str, Any]:
    began = time.monotonic()
    config = job.config.sessionize
    pinned = job.lake.version(INTERACTIONS)
    if pinned is None:
        raise ValueError(f"table {INTERACTIONS!r} does not exist: run `mealrec sessionize` first")
    events = _table(job, INTERACTIONS, pinned)
    catalogue = job.spark.createDataFrame(job.landing.catalogue().select(["video_id"]))
    known = _table(job, ITEMS, job.lake.version(ITEMS)) if job.lake.exists(ITEMS) else None
    index = items(catalogue, events, known).persist(StorageLevel.MEMORY_AND_DISK)
    pairs, rounds = kcore(positive_pairs(events), user_core=config.user_core, item_core=config.item_core)
    if pairs.isEmpty():
        raise ValueError(
            f"no viewer is left after the k-core (user_core={config.user_core}, item_core={config.item_core}): "
            "lower them or check sessionize.min_watch_ratio and sessionize.positive_events"
        )
    times = split_times(pairs, valid_share=config.valid_share, test_share=config.test_share)
    job.say(f"k-core settled after {rounds} rounds; writing items and sequences")
    table = sequences(pairs, index, times, buckets=config.buckets).persist(StorageLevel.MEMORY_AND_DISK)
    figures = table.agg(F.count("*").alias("viewers"), F.sum("length").alias("kept")).first()
    viewers, kept = int(figures["viewers"]), int(figures["kept"])
    item_files = write_files(index, job.lake, ITEMS)
    sequence_files = write_files(table.sortWithinPartitions("user_id"), job.lake, SEQUENCES)
    summary = StageSummary(
        stage="sequences",
        seconds=round(time.monotonic() - began, 3),
        rows_in=events.count(),
        rows_out=viewers,
        table=SEQUENCES,
        details={
            "items": index.count(),
            "interactions": kept,
            "mean_length": round(kept / viewers, 2),
            "kcore_rounds": rounds,
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
