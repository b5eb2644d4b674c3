"""spark-submit spark_jobs/run_sessionize.py --config run.json --landing DIR --summary out.json

Raw event files -> tables `quarantine` (stage=sessionize) and `interactions`.
"""

from __future__ import annotations

import time
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import functions as F

from mealrec.lake import Provenance
from mealrec.schema import INTERACTIONS, QUARANTINE
from mealrec.stages.summary import StageSummary
from spark_jobs.job import Job, main
from spark_jobs.parse import parsed, raw_lines
from spark_jobs.sessionize import interactions
from spark_jobs.validate import checked, rejected
from spark_jobs.write import write_files


def run(job: Job) -> dict[str, Any]:
    began = time.monotonic()
    config = job.config.sessionize
    files = [str(p) for p in job.landing.event_files()]
    job.say(f"reading {len(files)} event files")
    ids = job.landing.catalogue().select(["video_id"]).to_pandas()
    catalogue = job.spark.createDataFrame(ids, "video_id string")
    rows = checked(parsed(raw_lines(job.spark, files)), catalogue, config).persist(StorageLevel.MEMORY_AND_DISK)
    counts = {r["reason"]: int(r["count"]) for r in rows.groupBy("reason").count().collect()}
    good, quarantined = counts.pop(None, 0), dict(sorted(counts.items()))
    total = good + sum(quarantined.values())
    _stop_when_too_bad(total, good, quarantined, config.max_quarantine_share)
    job.say(f"{total} rows: {good} valid, {total - good} to quarantine")
    valid = interactions(rows.where(F.col("reason").isNull()), config).persist(StorageLevel.MEMORY_AND_DISK)
    figures = valid.agg(
        F.countDistinct("session_id").alias("sessions"),
        F.countDistinct("user_id").alias("viewers"),
        F.sum(F.col("is_positive").cast("int")).alias("positive"),
    ).first()
    summary = StageSummary(
        stage="sessionize",
        seconds=0.0,
        rows_in=total,
        rows_out=good,
        quarantined=quarantined,
        table=INTERACTIONS,
        details={name: int(figures[name] or 0) for name in ("sessions", "viewers", "positive")} | {"files": len(files)},
    )
    bad_files = write_files(rejected(rows), job.lake, QUARANTINE)
    good_files = write_files(valid.sortWithinPartitions("user_id", "timestamp_ms"), job.lake, INTERACTIONS)
    summary = summary.model_copy(update={"seconds": round(time.monotonic() - began, 3)})
    made = Provenance("sessionize", job.digest, job.run_id, summary=summary.counts(), claim=job.claim)
    # quarantine first: the interactions' commit is what marks the stage as done
    job.lake.commit_files(
        QUARANTINE, bad_files, made, mode="overwrite", partition_filters=[("stage", "=", "sessionize")]
    )
    version = job.lake.commit_files(INTERACTIONS, good_files, made, mode="overwrite")
    job.say(f"committed {INTERACTIONS} version {version}")
    return summary.model_copy(update={"version": version}).model_dump()


def _stop_when_too_bad(total: int, good: int, quarantined: dict[str, int], share: float) -> None:
    if good == 0:
        raise ValueError(f"no valid event in {total} rows; rejected: {quarantined or 'the files are empty'}")
    if total - good > share * total:
        raise ValueError(
            f"{total - good} of {total} rows rejected, more than sessionize.max_quarantine_share={share:g} allows: "
            f"{quarantined}; nothing was committed"
        )


if __name__ == "__main__":
    main("run_sessionize.py", __doc__ or "", run)
