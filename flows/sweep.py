"""Flow runs that a dead worker left Running or Pending: found by their process and their worker, marked as Crashed.

Prefect keeps a process's number but not its machine, so our flows say themselves where they run, as labels of the run.

A deployment that runs one at a time would otherwise refuse every later night while an orphan holds the place.

    python -m flows.sweep

runs it once; so does every start of the worker and of the pipeline, and the deployment `sweep`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Crashed

from flows import hooks

FLOWS = "mealrec-"
UNFINISHED = ["RUNNING", "PENDING", "CANCELLING"]
SILENT_S = 120.0  # four missed heartbeats of a worker
NEVER_STARTED_S = 900.0  # longer without a word from the flow itself: the worker that took it is gone
HOST, PID, WORKER = "mealrec.host", "mealrec.pid", "mealrec.worker"


def why_orphaned(age_s: float, began: bool, process_alive: bool | None, worker_silent_s: float | None) -> str | None:
    """The reason to call an unfinished flow run an orphan, None while it may be at work.

    age_s: since it entered its state. began: it has said where it runs. process_alive: None where it can't be seen, on
    another machine. worker_silent_s: since its worker, or any that could run it, was last heard of; None: never.
    """
    if process_alive:
        return None
    if process_alive is False:
        return "its process is gone"
    if age_s > SILENT_S and (worker_silent_s is None or worker_silent_s > SILENT_S):
        silent = "ever" if worker_silent_s is None else f"{worker_silent_s:.0f} s"
        return f"no worker that could run it has been heard of for {silent}"
    if not began and age_s > NEVER_STARTED_S:
        return f"a worker took it {age_s:.0f} s ago and it never began"
    return None


@flow(name="mealrec-sweep", persist_result=False)
def sweep() -> list[str]:
    """Mark orphaned runs as Crashed, write why, and end the MLflow runs that they left open; returns their names."""
    return sweep_orphans(get_run_logger(), ignore=this_run.id)


def before_a_run() -> None:
    """At the start of a flow: say where it runs, and sweep. A run without a deployment has no server to do so at."""
    if not deployment.id:
        return
    where = {HOST: socket.gethostname(), PID: os.getpid(), WORKER: os.environ.get("PREFECT__WORKER_NAME", "")}
    with get_client(sync_client=True) as client:
        client.update_flow_run_labels(UUID(str(this_run.id)), where)
    sweep_orphans(get_run_logger(), ignore=this_run.id)


def sweep_orphans(log: Any, ignore: str | None = None) -> list[str]:
    swept = []
    with get_client(sync_client=True) as client:
        for run in _unfinished(client):
            if str(run.id) == str(ignore):
                continue
            reason = _reason(client, run)
            if reason is None:
                continue
            state = Crashed(message=f"Orphaned: {reason}.")
            client.set_flow_run_state(run.id, state, force=True)
            hooks.close_up(client, run, state)
            log.warning("flow run %s was left %s: %s; marked as Crashed", run.name, run.state_name, reason)
            swept.append(run.name)
    return swept


def _unfinished(client: SyncPrefectClient) -> list[FlowRun]:
    runs: list[FlowRun] = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(like_=FLOWS)),
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": UNFINISHED}}}),
    )
    return [r for r in runs if r.deployment_id is not None and r.parent_task_run_id is None]


def _reason(client: SyncPrefectClient, run: FlowRun) -> str | None:
    now, labels = datetime.now(UTC), run.labels
    here = labels.get(HOST) == socket.gethostname()
    workers = client.read_workers_for_work_pool(run.work_pool_name) if run.work_pool_name else []
    own = [w for w in workers if w.name == labels.get(WORKER)]
    heard = _latest(w.last_heartbeat_time for w in own or workers)
    since = run.state.timestamp if run.state is not None else now
    return why_orphaned(
        (now - since).total_seconds(),
        HOST in labels,
        process_runs(int(labels[PID]), run.id) if here else None,
        None if heard is None else (now - heard).total_seconds(),
    )


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((t for t in times if t is not None), default=None)


def process_runs(pid: int, flow_run_id: UUID) -> bool:
    """Whether this process of this machine is there and runs this flow run: a number may have been given out again."""
    environment = Path(f"/proc/{pid}/environ")
    try:
        os.kill(pid, 0)
        if not Path("/proc/self").exists():  # not on this system
            return True
        return f"PREFECT__FLOW_RUN_ID={flow_run_id}".encode() in environment.read_bytes()
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True  # somebody else's: we can't tell, so we leave it


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    names = sweep_orphans(logging.getLogger("mealrec.sweep"))
    print(f"swept {len(names)}: {', '.join(names) or 'nothing was left'}")
