"""The whole pipeline: raw logs and videos in, a promoted model and recommendations out."""

from __future__ import annotations

import time
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import alerts, hooks, summary, sweep
from flows.stages import drift, evaluate, extract, ingest, profile, promote, recommend, sequences, sessionize, train
from mealrec.config import RunConfig

# stages start engines of their own that use every core: one at a time
ONE_AT_A_TIME = ThreadPoolTaskRunner(max_workers=1)


@flow(name="mealrec-pipeline", task_runner=ONE_AT_A_TIME, persist_result=False, **hooks.ON)
def pipeline(config: RunConfig, full: bool = False) -> dict[str, Any]:
    """Run every stage that is not up to date; returns the content of summary.json.

    full: read every event and decode every video again though nothing changed. Their tables get new versions, and what
    follows is made from those: a new model is trained, evaluated and put before the gate.
    """
    began = time.monotonic()
    sweep.before_a_run()

    landing = ingest.submit(config)
    interactions = sessionize.submit(config, full=full, wait_for=[landing])
    viewers = sequences.submit(config, wait_for=[interactions])
    videos = extract.submit(config, full=full, wait_for=[landing, viewers])
    healthy = profile.submit(config, wait_for=[viewers, videos])
    model = train.submit(config, wait_for=[healthy])
    report = evaluate.submit(config, wait_for=[model])
    moved = drift.submit(config, wait_for=[report])
    decision = promote.submit(config, wait_for=[moved])
    served = recommend.submit(config, wait_for=[decision])

    futures = {
        "ingest": landing,
        "sessionize": interactions,
        "sequences": viewers,
        "extract": videos,
        "profile": healthy,
        "train": model,
        "evaluate": report,
        "drift": moved,
        "promote": decision,
        "recommend": served,
    }
    stages = {name: future.result() for name, future in futures.items()}
    alerts.tell(stages["drift"])
    result = summary.summarise(config, stages, time.monotonic() - began)
    summary.write(config, result)
    summary.publish(config, result)
    return result
