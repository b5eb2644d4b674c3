"""`mealrec serve` as a team would start it: real Ray Serve, two replicas, and what happens to them at night."""

from __future__ import annotations

import contextlib
import json
import os
import signal
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
import pytest

from mealrec.lake import Lake
from mealrec.serving.server import TOKEN_VARIABLE
from tests.serving.conftest import Registry
from tests.serving.test_journal import write_sequences
from tests.serving.test_models import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TOKEN = "canary-51d0c7e8aa21"
NOW = 1_768_900_000_000


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


def test_replicas_and_keeper_killed_and_an_alias_moved_under_load_drop_nothing(
    registry: Registry, bundles: list[Path], tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    write_sequences(lake, {"u1": [(1, 100), (2, 300)]})
    versions = [registry.register(bundle) for bundle in bundles]
    registry.promote(versions[0])
    log = tmp_path / "log"
    with serving(registry, lake, log, "--replicas", "2") as server:
        assert httpx.get(f"{server.address}/metrics").status_code == 401
        assert httpx.get(f"{server.address}/-/routes").status_code == 404
        with Load(server) as load:
            served(load, 20)
            old = server.workers("ServeReplica")
            assert len(old) == 2
            old[0].kill()
            served(load, 20, lambda: len(server.workers("ServeReplica")) == 2)
            registry.promote(versions[1])
            served(load, 20, lambda: load.versions["2"] > 0)
            (keeper,) = server.workers("Keeper")
            keeper.kill()
            served(load, 20, lambda: any(w.pid != keeper.pid for w in server.workers("Keeper")))
        assert load.failures == []
        assert set(load.statuses) <= {200, 503} and set(load.versions) == {"1", "2"}
        journal = lake.folder("landing", "events").glob("served-*.jsonl")
        written = [json.loads(line)["event_id"] for path in journal for line in path.read_text().splitlines()]
        assert set(load.acknowledged) <= set(written) and len(written) == len(set(written)), "none lost, none twice"
        known = httpx.post(f"{server.address}/recommend", json={"user_id": "u1"}, headers=server.headers).json()
        assert known["history_length"] == 3, "two from the table, one from the journal"
        wait_for(lambda: _replicas(server) == 2)
        family = psutil.Process(server.process.pid).children(recursive=True)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(90) == 0
        wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), seconds=60)
    assert TOKEN not in log.read_text()


def _replicas(server: Server) -> int:
    """How many replicas' counts one answer of /metrics holds."""
    text = httpx.get(f"{server.address}/metrics", headers=server.headers).text
    alive = [line for line in text.splitlines() if line.startswith("mealrec_model_info") and 'version="2"' in line]
    return len({line.split('replica="')[1].split('"')[0] for line in alive if 'alias="champion"' in line})
