"""Alerts on a real Prefect server on PostgreSQL: its automations call a real webhook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Crashed, Running

from flows.alerts import tell
from mealrec.stages.summary import StageSummary
from tests.integration.servers import ROOT, Stack, stack, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def alerts() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook on loopback, and what it was told."""
    told: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/told", told
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def watched(alerts: tuple[str, list[dict[str, Any]]]) -> Iterator[Stack]:
    with stack() as servers:
        servers.prefect()
        install = [sys.executable, "-m", "flows.alerts", "--hours", str(10 / 3600)]
        environment = dict(os.environ) | servers.environment | {"MEALREC_ALERT_WEBHOOK": alerts[0]}
        done = subprocess.run(install, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert alerts[0] not in done.stdout + done.stderr, "a webhook's address is a secret"
        yield servers


@flow(name="mealrec-crashing")
def crashing() -> None:
    """Never really run: the test sets its states."""


def found(folder: Path, state: str, *, skipped: bool = False) -> StageSummary:
    """What the stage drift returns when its only quantity is in this state."""
    quantity = {"group": "events", "name": "watch_ms", "moved": f"median 9 -> 1 in {state}", "state": state}
    path = folder / f"{state}-{skipped}.json"
    path.write_text(json.dumps({"quantities": [quantity, quantity | {"name": "event_type", "state": "ok"}]}))
    details = {"state": state, "champion": "3", "drift": str(path)}
    return StageSummary(stage="drift", seconds=1, rows_in=1, rows_out=1, skipped=skipped, details=details)


def test_a_crash_a_missing_night_and_data_that_moved_reach_the_webhook(
    watched: Stack, alerts: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The run is not one of the schedule's: Prefect holds back the events of a run that was scheduled less than five minutes
    before it began, for up to a quarter of an hour."""

    def told(*words: str) -> bool:
        return any(all(word in heard["text"] for word in words) for heard in alerts[1])

    with SyncPrefectClient(api=watched.api) as client:
        run = client.create_flow_run(crashing)
        for state in (Running(), Crashed(message="on purpose")):
            client.set_flow_run_state(run.id, state, force=True)
    with temporary_settings({PREFECT_API_URL: watched.api}):
        tell(found(tmp_path, "warn"))
        tell(found(tmp_path, "alarm", skipped=True))
        tell(found(tmp_path, "alarm"))
    try:
        until(lambda: told("mealrec: the data moved", "events watch_ms: median 9 -> 1 in alarm."), "the drift was told")
        until(lambda: told("mealrec: a run ended badly", run.name, "Crashed"), "the crash was told")
        until(lambda: told("mealrec: no good night"), "the missing night was told")
    except AssertionError as error:
        raise AssertionError(f"{error}; told were: {sorted({heard['text'] for heard in alerts[1]})}") from None
    moved = [heard["text"] for heard in alerts[1] if "the data moved" in heard["text"]]
    assert len(moved) == 1 and "event_type" not in moved[0], (
        "neither a warning nor what was told before, nor what is well"
    )
