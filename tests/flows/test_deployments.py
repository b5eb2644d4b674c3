"""prefect.yaml against a real Prefect server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with (home / "server.log").open("w") as log:
        process = subprocess.Popen(
            [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(environment["PREFECT_API_URL"] + "/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, (home / "server.log").read_text()[-3000:]
                time.sleep(0.5)
        yield environment
        process.terminate()
        process.wait(30)


def prefect(server: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [PREFECT, "--no-prompt", *arguments],
        env=server | {"COLUMNS": "200"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_deployment_is_accepted_and_nightly_has_its_schedule_and_form(server: dict[str, str]) -> None:
    import json

    prefect(server, "work-pool", "create", "mealrec", "--type", "process")
    prefect(server, "deploy", "--all")
    body = json.dumps({}).encode()
    request = urllib.request.Request(
        server["PREFECT_API_URL"] + "/deployments/filter", data=body, headers={"Content-Type": "application/json"}
    )
    deployments = {d["name"]: d for d in json.loads(urllib.request.urlopen(request, timeout=20).read())}
    assert set(deployments) == {"nightly", "promote", "adhoc"}
    nightly = deployments["nightly"]
    schedule = nightly["schedules"][0]["schedule"]
    assert (schedule["cron"], schedule["timezone"]) == ("30 2 * * *", "Europe/Berlin")
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    form = nightly["parameter_openapi_schema"]["definitions"]
    assert {"RunConfig", "TrainConfig", "SessionizeConfig"} <= set(form)
    assert form["TrainConfig"]["properties"]["workers"]["description"].startswith("Ray Train workers")
