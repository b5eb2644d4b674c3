"""How far a long Spark job is, said every few seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spark_jobs.job import Job

SAY_EVERY_S = 10.0


@contextmanager
def followed(job: Job) -> Iterator[None]:
    """Says tasks done of each running stage, while the block runs."""
    over = threading.Event()
    tracker = job.spark.statusTracker()

    def follow() -> None:
        while not over.wait(SAY_EVERY_S):
            for number in tracker.getActiveStageIds():
                stage = tracker.getStageInfo(number)
                if stage is not None:
                    what = "sessionizing" if number else "reading"
                    job.say(f"{what}: {stage.numCompletedTasks} of {stage.numTasks} tasks done")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
