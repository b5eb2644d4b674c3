"""The Prefect server, in the foreground until SIGTERM.

    .venv/bin/python infra/start/prefect_server.py --database DSN

DSN is what infra/start/postgres.py prints for `prefect`; without one the server keeps SQLite in its home, which is for one
person. Prints `ready prefect http://HOST:PORT/api`: what PREFECT_API_URL has to be for workers and commands. An address that
others can reach needs PREFECT_SERVER_API_AUTH_STRING=user:password (and PREFECT_API_AUTH_STRING, the same, for the clients).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from foreground import LOOPBACK, answers, reachable, refuse_wide, run, serve

DATABASE = "PREFECT_API_DATABASE_CONNECTION_URL"
AUTH = "PREFECT_SERVER_API_AUTH_STRING"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default=LOOPBACK, help="address (default %(default)s)")
    parser.add_argument("--port", type=int, default=4200, help="port (default %(default)s)")
    parser.add_argument("--database", default=os.environ.get(DATABASE), help=f"PostgreSQL DSN; or {DATABASE}")
    parser.add_argument("--home", type=Path, default=Path("var/prefect"), help="working folder (default %(default)s)")
    given = parser.parse_args()
    auth = os.environ.get(AUTH)
    refuse_wide(given.host, bool(auth), f"set {AUTH}=user:password, and PREFECT_API_AUTH_STRING for the clients")
    given.home.mkdir(parents=True, exist_ok=True)
    api = f"http://{reachable(given.host)}:{given.port}/api"
    environment = {
        "PREFECT_HOME": str(given.home.absolute()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # the page in the browser asks the server at the address that it came from
        "PREFECT_UI_API_URL": "/api",
    }
    if given.database:
        environment[DATABASE] = given.database  # by the environment: everybody can read a command line
    return serve(
        [sys.executable, "-m", "prefect", "server", "start", "--host", given.host, "--port", str(given.port)],
        lambda: f"ready prefect {api}" if answers(f"{api}/health", auth) else None,
        environment=environment,
    )


if __name__ == "__main__":
    run(main)
