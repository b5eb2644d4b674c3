"""Which failures a stage task tries again."""

from __future__ import annotations

import pytest
from prefect import flow, task

from flows.stages import TASKS, worth_retrying
from mealrec.claims import Overtaken
from mealrec.config import ConfigError
from mealrec.sources.landing import SourceError
from mealrec.stages import STAGES
from mealrec.stages.summary import EngineLost, StageError

pytestmark = pytest.mark.slow


def test_every_stage_is_a_task_with_retries() -> None:
    assert tuple(TASKS) == STAGES
    assert all(t.name == name and t.retries == 1 for name, t in TASKS.items())


@pytest.mark.usefixtures("prefect_server")
def test_a_lost_disk_is_tried_again_a_mistake_is_not() -> None:
    calls: dict[str, int] = {}

    def attempts(error: Exception) -> int:
        name = type(error).__name__

        @task(name=name, retries=1, retry_condition_fn=worth_retrying)
        def stage() -> None:
            calls[name] = calls.get(name, 0) + 1
            raise error

        @flow
        def run() -> None:
            stage.submit().wait()

        run(return_state=True)
        return calls[name]

    assert attempts(OSError("disk")) == 2
    assert attempts(EngineLost("Spark was killed")) == 2
    assert attempts(StageError("too many bad rows")) == 1
    assert attempts(Overtaken("by a newer run")) == 1
    assert attempts(SourceError("no such file")) == 1
    assert attempts(ConfigError("unknown key")) == 1
