"""Which unfinished flow runs are orphans."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from uuid import uuid4

import pytest

from flows.sweep import process_runs, why_orphaned


@pytest.mark.parametrize(
    ("age_s", "began", "process_alive", "worker_silent_s", "words"),
    [
        (5, True, False, 1, "process is gone"),
        (9000, True, True, 9000, None),  # its worker died, the process works on
        (9000, True, None, 10, None),  # on another machine, whose worker is there
        (9000, True, None, 200, "no worker .* for 200 s"),
        (9000, True, None, None, "no worker .* for ever"),
        (5, False, None, None, None),  # has only just been taken
        (300, False, None, 10, None),
        (1000, False, None, 10, "never began"),
    ],
)
def test_a_run_is_an_orphan_when_nothing_can_be_at_work_on_it(
    age_s: float, began: bool, process_alive: bool | None, worker_silent_s: float | None, words: str | None
) -> None:
    reason = why_orphaned(age_s, began, process_alive, worker_silent_s)
    assert reason is None if words is None else re.search(words, reason or "")


def test_a_process_counts_only_while_it_runs_that_flow_run() -> None:
    mine = uuid4()
    environment = dict(os.environ) | {"PREFECT__FLOW_RUN_ID": str(mine)}
    sleeper = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        sleeper, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert process_runs(process.pid, mine)
        assert not process_runs(process.pid, uuid4()), "the number was given out again"
        process.kill()
        process.wait()
        assert not process_runs(process.pid, mine)
