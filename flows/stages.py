"""One Prefect task a stage: name and retries. What a stage does, whether it has anything to do and how long its engine may
take (spark.timeout_s, features.decode_deadline_s, train.max_failures) is its own: a task's timeout can't interrupt it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run, task_run
from prefect.states import State, get_state_exception
from prefect.tasks import Task

from flows import progress
from mealrec import logs
from mealrec.claims import Overtaken
from mealrec.config import RunConfig
from mealrec.stages import STAGES, stage_named
from mealrec.stages.summary import StageError, StageSummary

Stage = Callable[..., StageSummary]


def worth_retrying(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """A user's mistake, a refused input and a run that was overtaken stay what they are; a lost process or a full disk may
    pass."""
    try:
        error = get_state_exception(state)
        if hasattr(error, "__await__"):  # Prefect gives a coroutine where an event loop runs
            return True
    except ValueError:
        return True
    return not isinstance(error, (ValueError, StageError, Overtaken))


def stage(name: str) -> Stage:
    """The stage function, imported when it is called: a flow's import stays cheap."""

    def run(config: RunConfig, **options: Any) -> StageSummary:
        logs.install()
        run_id = str(flow_run.id or "")
        with logs.inside(name, run_id=run_id, attempt=int(task_run.run_count or 1)), progress.shown(name):
            return stage_named(name)(config, run_id=run_id, **options)

    run.__name__, run.__doc__ = name, f"Stage `{name}`: see mealrec.stages.{name}."
    return run


def stage_task(name: str) -> Task[..., StageSummary]:
    return task(
        stage(name),
        name=name,
        retries=1,
        retry_delay_seconds=5,
        retry_condition_fn=worth_retrying,
        persist_result=False,  # committed tables are the memory, not Prefect's results
    )


ingest = stage_task("ingest")
sessionize = stage_task("sessionize")
sequences = stage_task("sequences")
extract = stage_task("extract")
profile = stage_task("profile")
train = stage_task("train")
evaluate = stage_task("evaluate")
drift = stage_task("drift")
promote = stage_task("promote")
recommend = stage_task("recommend")
TASKS = dict(
    zip(
        STAGES,
        (ingest, sessionize, sequences, extract, profile, train, evaluate, drift, promote, recommend),
        strict=True,
    )
)
