"""A Prefect worker for one process pool, in the foreground until SIGTERM.

    PREFECT_API_URL=http://127.0.0.1:4200/api .venv/bin/python infra/start/prefect_worker.py

Makes the pool when it is absent, deploys every deployment of prefect.yaml (--no-deploy: leaves them as they are) and ends the
flow runs that a dead worker left. Run it from the project's folder.

Prints `ready worker NAME pool=POOL`.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

from foreground import Refused, answers, run, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", default="mealrec", help="work pool (default %(default)s)")
    parser.add_argument("--name", default=f"{socket.gethostname()}-{os.getpid()}", help="worker's name")
    parser.add_argument("--limit", type=int, default=1, help="flow runs at a time (default %(default)s)")
    parser.add_argument("--file", default="prefect.yaml", help="deployments to deploy (default %(default)s)")
    parser.add_argument("--no-deploy", action="store_true", help="leave the deployments as they are")
    given = parser.parse_args()
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise Refused("set PREFECT_API_URL to the address that infra/start/prefect_server.py prints")
    _wait_for(api)
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=given.pool, type="process"))
        except ObjectAlreadyExists:
            print(f"pool {given.pool} is there", file=sys.stderr)
    if not given.no_deploy:
        deploy = [*PREFECT, "deploy", "--all", "--prefect-file", given.file]
        if subprocess.run(deploy, stdout=sys.stderr, check=False).returncode:
            raise Refused(f"{given.file} was not deployed: see above")
    # what a worker before us left Running when it died would hold the place of every later night
    subprocess.run([sys.executable, "-m", "flows.sweep"], stdout=sys.stderr, check=True)
    began = datetime.now(UTC)
    return serve(
        [*PREFECT, "worker", "start", "--pool", given.pool, "--name", given.name, "--limit", str(given.limit)],
        lambda: _online(given.pool, given.name, began),
    )


def _wait_for(api: str, timeout_s: float = 60.0) -> None:
    until = time.monotonic() + timeout_s
    while not answers(f"{api}/health", os.environ.get("PREFECT_API_AUTH_STRING")):
        if time.monotonic() > until:
            raise Refused(f"nothing answers at PREFECT_API_URL={api}: start infra/start/prefect_server.py first")
        time.sleep(0.5)


def _online(pool: str, name: str, began: datetime) -> str | None:
    """The ready line once the server has heard of this worker since `began`."""
    with get_client(sync_client=True) as client:
        workers: list[Any] = client.read_workers_for_work_pool(pool)
    heard = [w for w in workers if w.name == name and w.last_heartbeat_time and w.last_heartbeat_time >= began]
    return f"ready worker {name} pool={pool}" if heard else None


if __name__ == "__main__":
    run(main)
