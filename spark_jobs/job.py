"""What the two mains share: arguments in, a summary or a readable error out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyspark import SparkContext

from mealrec import full_disk
from mealrec.claims import Claim
from mealrec.config import RunConfig, load
from mealrec.lake import Lake
from mealrec.sources.landing import Landing
from spark_jobs.session import build

LOST_FILE = re.compile(r"^(?:FileNotFoundError|PermissionError): (.*)$", re.MULTILINE)
PROGRESS = "mealrec> "  # lines with this mark are for people; the rest of stderr is Spark's own


@dataclass(frozen=True)
class Job:
    """One run of a job."""

    spark: SparkContext
    config: RunConfig
    lake: Lake
    landing: Landing
    digest: str
    run_id: str
    claim: Claim | None
    full: bool = False

    def say(self, line: str) -> None:
        print(f"{PROGRESS}{line}", file=sys.stderr, flush=True)


def main(name: str, description: str, run: Callable[[Job], dict[str, Any]]) -> None:
    """Parse arguments, run, write the summary (or {"error": ...}) as JSON; exit status 1 after an error."""
    parser = argparse.ArgumentParser(prog=f"spark-submit {name}", description=description)
    parser.add_argument("--config", required=True, type=Path, help="JSON file of a whole run configuration")
    parser.add_argument("--landing", required=True, type=Path, help="folder with events/ and catalogue.*")
    parser.add_argument("--summary", required=True, type=Path, help="where to write the summary (JSON)")
    parser.add_argument("--digest", default="", help="digest of inputs and settings, kept in the commit")
    parser.add_argument("--run-id", default="", help="identifier of the pipeline run, kept in the commit")
    parser.add_argument("--claim", type=Claim.from_json, help="JSON of the claim that the commits are bound to")
    parser.add_argument("--full", action="store_true", help="make everything anew, whatever was committed")
    arguments = parser.parse_args()
    config = load(json.loads(arguments.config.read_text()))
    spark = build(name)
    lake = Lake(config.lake, config.work)
    landing = Landing(arguments.landing, config.source.through, config.source.catalogue)
    job = Job(spark, config, lake, landing, arguments.digest, arguments.run_id, arguments.claim, arguments.full)
    try:
        summary = run(job)
    except Exception as error:
        said = readable(error, spark)
        if said is None:
            raise
        try:
            is_ours = isinstance(error, (ValueError, RuntimeError))  # of inputs, settings or a race: it stays as it is
            may_pass = not is_ours or full_disk.told(error, "") is not None
            arguments.summary.write_text(json.dumps({"error": said, "may_pass": may_pass}))
        except OSError:  # no room for that either: the last lines of the job are shown then
            print(said, file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        spark.stop()
    arguments.summary.write_text(json.dumps(summary))


def readable(error: Exception, spark: SparkContext) -> str | None:
    """One line for a person; None for what only the whole trace explains."""
    scratch = f"Spark's scratch folder (spark.local.dir) {spark.getConf().get('spark.local.dir', '')}"
    if full := full_disk.told(error, scratch):
        return full
    if isinstance(error, (ValueError, RuntimeError)):  # ours: readable as they are
        return str(error)
    # of a file that went away, or is not ours to read: met here, or by a task, whose trace is the error's text
    found = LOST_FILE.findall(f"{type(error).__name__}: {error}")
    return f"{found[-1]}; nothing was committed, run it again" if found else None
