"""One more node of a Ray cluster, in the foreground until SIGTERM; as many as you like on one machine.

    .venv/bin/python infra/start/ray_node.py --num-cpus 2 --address 127.0.0.1:6379

Needs the head's token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token). Prints `ready ray node NAME`.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from foreground import LOOPBACK, Refused, run, serve

START = [
    sys.executable,
    str(Path(__file__).parents[1] / "ray" / "loopback.py"),
    "start",
    "--block",
    "--disable-usage-stats",
]
AGENT_PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")


def main() -> int:
    parser = shared_options(__doc__)
    parser.add_argument("--address", default=f"{LOOPBACK}:6379", help="the head's (default %(default)s)")
    parser.add_argument("--dashboard", default=f"http://{LOOPBACK}:8265", help="the head's (default %(default)s)")
    given = parser.parse_args()
    name = f"node-{os.getpid()}"
    joins = ["--node-ip-address", given.host, "--address", given.address, "--node-name", name]
    # one log monitor a machine is enough
    monitor = ["--include-log-monitor", "false"] if given.host == LOOPBACK else []
    return serve(
        [*START, *joins, *monitor, *sizes(given)],
        lambda: f"ready ray node {name}" if alive(given.dashboard, name) else None,
        environment=environment(),
    )


def shared_options(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default=LOOPBACK, help="this node's address (default %(default)s)")
    parser.add_argument("--num-cpus", type=int, help="CPUs to offer (default: those of the machine)")
    parser.add_argument("--object-store-mb", type=int, default=512, help="object store, MiB (default %(default)s)")
    return parser


def sizes(given: argparse.Namespace) -> list[str]:
    cpus = [] if given.num_cpus is None else ["--num-cpus", str(given.num_cpus)]
    return [*cpus, "--object-store-memory", str(given.object_store_mb * 2**20), *agent_ports()]


def agent_ports() -> list[str]:
    """Free ports for this node's agents. Where Ray is left to choose, a node gives up when they take 15 s to tell it; and the
    first has a default that only one node of a machine can have."""
    held = [socket.create_server((LOOPBACK, 0)) for _ in AGENT_PORTS]
    flags = [
        word for name, s in zip(AGENT_PORTS, held, strict=True) for word in (f"--{name}-port", str(s.getsockname()[1]))
    ]
    for one in held:
        one.close()
    return flags


def environment() -> dict[str, str]:
    """What Ray's processes run with. Raises Refused when the user turns the token off."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        raise Refused("RAY_AUTH_MODE is not token: everybody who reaches a Ray cluster may run code on it")
    os.umask(0o077)  # logs and the token are this user's alone
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # an address left over from another cluster would win
        os.environ.pop(name, None)
    settings = dict(os.environ) | {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_raylet_start_wait_time_s": "180",  # a busy machine needs more than Ray's 30
        "RAY_worker_niceness": "0",  # Ray's 15 starves workers beside any other busy program
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",  # a job's `python`
    }
    os.environ["RAY_AUTH_MODE"] = "token"  # for the question whether it is there
    return settings


def alive(dashboard: str, name: str) -> bool:
    """Whether the cluster takes the node of this name for alive."""
    import requests
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        nodes = list_nodes(address=dashboard)  # with filters Ray takes every node left out for one that it lost
    except (ConnectionError, RuntimeError, requests.RequestException, RayStateApiException):
        return False
    return any(node.node_name == name and node.state == "ALIVE" for node in nodes)


if __name__ == "__main__":
    run(main)
