"""A running `mealrec serve` and viewers who ask it, for tests that start it as a team would."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from mealrec.lake import Lake
from mealrec.serving.server import TOKEN_VARIABLE
from tests.serving.conftest import Registry
from tests.serving.test_journal import write_sequences
from tests.serving.test_models import wait_for

TOKEN = "canary-51d0c7e8aa21"
NOW = 1_768_900_000_000


def two_versions(registry: Registry, bundles: list[Path], lake: Lake) -> list[str]:
    """A viewer with two videos, and two registered versions of which the first is promoted."""
    write_sequences(lake, {"u1": [(1, 100), (2, 300)]})
    versions = [registry.register(bundle) for bundle in bundles]
    registry.promote(versions[0])
    return versions


class Server:
    """A running `mealrec serve`."""

    def __init__(self, process: subprocess.Popen[bytes], address: str) -> None:
        self.process, self.address = process, address
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    def workers(self, name: str) -> list[psutil.Process]:
        """Ray's worker processes whose title starts with ray::NAME."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(f"ray::{name}"):
                    found.append(process)
        return found


@contextlib.contextmanager
def serving(registry: Registry, lake: Lake, log: Path, *arguments: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = registry.tracker.config
    settings = [f"registry.tracking_uri={registry.tracker.uri}", f"registry.model_name={config.model_name}"]
    settings += ["serve.poll_s=0.5", "ray.object_store_mb=80"]
    command = [sys.executable, "-m", "mealrec.cli", "serve", "--preset", "demo", "--lake", lake.root]
    command += ["--port", str(port), *arguments, *(part for s in settings for part in ("--set", s))]
    environment = {**os.environ, TOKEN_VARIABLE: TOKEN}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, env=environment)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            assert address == f"http://127.0.0.1:{port}", log.read_text()
            yield Server(process, address)
        finally:
            process.kill()
            process.wait()


class Load:
    """Viewers who ask and send events until told to stop."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.acknowledged: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go, args=(n,)) for n in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _go(self, number: int) -> None:
        with httpx.Client(base_url=self.server.address, headers=self.server.headers, timeout=60) as client:
            for turn in range(10**6):
                if self._stop.is_set():
                    return
                try:
                    self._ask(client, f"e{number}-{turn}", f"u{turn % 5}")
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                time.sleep(0.05)

    def _ask(self, client: httpx.Client, event_id: str, user: str) -> None:
        answer = client.post("/recommend", json={"user_id": user, "k": 5})
        self._note(answer)
        if answer.status_code == 200:
            self.versions[answer.json()["model_version"]] += 1
        event = {"event_id": event_id, "user_id": user, "video_id": "v3", "event_type": "like", "timestamp": NOW}
        answer = client.post("/events", json={"events": [event]})
        self._note(answer)
        if answer.status_code == 200:
            self.acknowledged.append(event_id)

    def _note(self, answer: Any) -> None:
        self.statuses[answer.status_code] += 1
        if answer.status_code not in (200, 503) or (answer.status_code == 503 and "Retry-After" not in answer.headers):
            self.failures.append(f"{answer.status_code} {answer.text[:200]}")


def served(load: Load, more: int, by: Callable[[], bool] = lambda: True) -> None:
    """Wait until so many more requests were answered with 200, and `by` holds."""
    goal = load.statuses[200] + more
    wait_for(lambda: load.statuses[200] >= goal and by(), seconds=90)
