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
    ("state", "age_s", "process_alive", "worker_silent_s", "words"),
    [
        ("RUNNING", 5, False, 1, "process is gone"),
        ("CANCELLING", 5, False, 1, "process is gone"),
        ("RUNNING", 9000, True, 9000, None),  # its worker died, the process works on
        ("RUNNING", 9000, None, 10, None),  # on another machine, whose worker is there
        ("RUNNING", 9000, None, 200, "no worker .* for 200 s"),
        ("RUNNING", 9000, None, None, "no worker .* for ever"),
        ("RUNNING", 5, None, None, None),  # has only just begun
        ("PENDING", 300, None, 10, None),
        ("PENDING", 1000, None, 10, "never started"),
    ],
)
def test_a_run_is_an_orphan_when_nothing_can_be_at_work_on_it(
    state: str, age_s: float, process_alive: bool | None, worker_silent_s: float | None, words: str | None
) -> None:
    reason = why_orphaned(state, age_s, process_alive, worker_silent_s)
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
