"""The MLflow server (runs, registry, artifacts), in the foreground until SIGTERM.

    .venv/bin/python infra/start/mlflow_server.py --backend DSN --artifacts var/mlartifacts

DSN is what infra/start/postgres.py prints for `mlflow`. Artifacts go through the server into a folder or an s3:// address, so
that clients need no key to the store. Prints `ready mlflow http://HOST:PORT`: what registry.tracking_uri has to be. An address
that others can reach needs --auth, MLflow's basic-auth app (package mlflow[auth], MLFLOW_FLASK_SERVER_SECRET_KEY and
MLFLOW_AUTH_CONFIG_PATH).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from foreground import LOOPBACK, Refused, answers, reachable, refuse_wide, run, serve

BACKEND = "MLFLOW_BACKEND_STORE_URI"
SECRET = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105 (the name of a variable)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default=LOOPBACK, help="address (default %(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="port (default %(default)s)")
    parser.add_argument("--backend", default=os.environ.get(BACKEND), help=f"PostgreSQL DSN; or {BACKEND}")
    parser.add_argument("--artifacts", default="var/mlartifacts", help="folder or s3:// address (default %(default)s)")
    parser.add_argument("--auth", action="store_true", help="ask for a user and a password")
    given = parser.parse_args()
    if not given.backend:
        raise Refused(f"--backend is missing: the DSN that infra/start/postgres.py prints for mlflow; or set {BACKEND}")
    refuse_wide(given.host, given.auth, "add --auth")
    if given.auth and not (importlib.util.find_spec("flask_wtf") and os.environ.get(SECRET)):
        raise Refused(f"--auth needs the package mlflow[auth] and a random {SECRET}")
    artifacts = given.artifacts
    if "://" not in artifacts:
        Path(artifacts).mkdir(parents=True, exist_ok=True)
        artifacts = Path(artifacts).absolute().as_uri()
    url = f"http://{reachable(given.host)}:{given.port}"
    return serve(
        [sys.executable, "-m", "mlflow", "server", "--host", given.host, "--port", str(given.port), "--workers", "1"]
        + ["--serve-artifacts", "--artifacts-destination", artifacts]
        + (["--app-name", "basic-auth"] if given.auth else []),
        lambda: f"ready mlflow {url}" if answers(f"{url}/health") else None,
        environment={
            BACKEND: given.backend,  # by the environment: everybody can read a command line
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 0.55 GB of memory instead of 3.5
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        },
    )


if __name__ == "__main__":
    run(main)
