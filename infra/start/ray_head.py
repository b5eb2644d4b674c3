"""The head of a Ray cluster, in the foreground until SIGTERM.

    .venv/bin/python infra/start/ray_head.py --num-cpus 2

Drivers of jobs run here, and the dashboard's port takes jobs (`mealrec ray submit`). Always with a token, in Ray's own order
RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token, which is made when there is none. Prints
`ready ray HOST:PORT dashboard=http://HOST:PORT`: the addresses for infra/start/ray_node.py and for --address.
"""

from __future__ import annotations

import subprocess
import sys

from foreground import LOOPBACK, run, serve
from ray_node import START, alive, environment, shared_options, sizes


def main() -> int:
    parser = shared_options(__doc__)
    parser.add_argument("--port", type=int, default=6379, help="port for nodes and drivers (default %(default)s)")
    parser.add_argument("--dashboard-port", type=int, default=8265, help="port for jobs (default %(default)s)")
    parser.add_argument("--client-port", type=int, default=10001, help="port of ray:// (default %(default)s)")
    parser.add_argument("--temp-dir", help="logs and sockets, a short path (default /tmp/ray)")
    given = parser.parse_args()
    settings = environment()
    # the token itself goes nowhere: the command makes one when there is none
    make = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
    subprocess.run(make, env=settings, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    gcs, dashboard = f"{given.host}:{given.port}", f"http://{LOOPBACK}:{given.dashboard_port}"
    return serve(
        [*START, "--head", "--node-ip-address", given.host, "--port", str(given.port), "--node-name", "head"]
        + ["--dashboard-host", LOOPBACK, "--dashboard-port", str(given.dashboard_port)]
        + ["--ray-client-server-port", str(given.client_port), *sizes(given)]
        + (["--temp-dir", given.temp_dir] if given.temp_dir else []),
        lambda: f"ready ray {gcs} dashboard={dashboard}" if alive(dashboard, "head") else None,
        environment=settings,
    )


if __name__ == "__main__":
    run(main)
