"""A team's servers, started by the scripts of infra/start as a person would, for tests to use, kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
START = ROOT / "infra" / "start"


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are held until the last is found, so that none comes twice."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def until(true: Callable[[], Any], what: str, timeout_s: float = 120.0, every_s: float = 0.25) -> Any:
    """The first truthy answer; fails the test with `what` when none comes in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := true():
            return answer
        time.sleep(every_s)
    raise AssertionError(f"not in {timeout_s:g} s: {what}")


def kill_tree(process: psutil.Process) -> None:
    """SIGKILL a process and all that it started, as a machine's restart would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


@dataclass
class Running:
    """One script of infra/start at work; `line` is what it said when it was ready, output and log lie beside each other."""

    script: str
    process: subprocess.Popen[bytes]
    log: Path
    line: str

    def stop(self) -> int:
        """SIGTERM, as a service manager does; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL the script with its server and all that this one started."""
        kill_tree(psutil.Process(self.process.pid))
        self.process.wait(30)

    def servers(self) -> list[psutil.Process]:
        """What the script started, for a test that kills the server and not its script."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def start(
    script: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, timeout_s: float = 180.0
) -> Running:
    """Run infra/start/<script>.py and wait for its `ready` line; fails with the log's end when it stops before."""
    log, out = folder / f"{script}.log", folder / f"{script}.out"
    with out.open("wb") as stdout, log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(START / f"{script}.py"), *arguments],
            cwd=ROOT,
            env=dict(os.environ) | dict(environment or {}),
            stdout=stdout,
            stderr=stderr,
        )
    running = Running(script, process, log, "")

    def ready() -> str | None:
        lines = [line for line in out.read_text().splitlines() if line.startswith("ready ")]
        assert lines or process.poll() is None, f"{script} ended: {running.said()[-3000:]}"
        return lines[0] if lines else None

    try:
        running.line = until(ready, f"{script} ready; its log ends: {log.read_text()[-500:]}", timeout_s)
    except BaseException:
        running.kill()
        raise
    return running


class Stack:
    """PostgreSQL, Prefect server, MLflow server and worker over one folder; each starts when it is asked for.

    Asked again it is the same one; after a test stopped or killed it, a new one on the same port and data."""

    def __init__(self, folder: Path, worker_options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.worker_options = worker_options
        self.ports = {"prefect_server": free_port(), "mlflow_server": free_port()}
        self.running: dict[str, Running] = {}

    @property
    def api(self) -> str:
        """What PREFECT_API_URL has to be."""
        return f"http://127.0.0.1:{self.ports['prefect_server']}/api"

    @property
    def tracking_uri(self) -> str:
        """What registry.tracking_uri has to be."""
        return f"http://127.0.0.1:{self.ports['mlflow_server']}"

    @property
    def environment(self) -> dict[str, str]:
        """For every client of the Prefect server: workers, commands, flows."""
        return {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.folder / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }

    def postgres(self) -> Running:
        return self._once("postgres", "--data", str(self.folder / "pg"))

    def dsn(self, database: str) -> str:
        told = dict(word.split("=", 1) for word in self.postgres().line.split()[2:])
        return told[database]

    def prefect(self) -> Running:
        port, home = str(self.ports["prefect_server"]), str(self.folder / "prefect")
        return self._once("prefect_server", "--port", port, "--home", home, "--database", self.dsn("prefect"))

    def mlflow(self) -> Running:
        port, store = str(self.ports["mlflow_server"]), str(self.folder / "artifacts")
        return self._once("mlflow_server", "--port", port, "--artifacts", store, "--backend", self.dsn("mlflow"))

    def worker(self, *more: str) -> Running:
        """Needs the Prefect server; deploys what `worker_options` say (default: every deployment of prefect.yaml)."""
        self.prefect()
        return self._once("prefect_worker", "--name", "worker", *self.worker_options, *more)

    def close(self) -> None:
        for running in reversed(self.running.values()):
            if running.process.poll() is None:
                running.stop()

    def _once(self, script: str, *arguments: str) -> Running:
        running = self.running.get(script)
        if running is None or running.process.poll() is not None:
            self.running.pop(script, None)
            running = start(script, *arguments, folder=self.folder, environment=self.environment)
            self.running[script] = running
        return running


@contextlib.contextmanager
def stack(*worker_options: str) -> Iterator[Stack]:
    """Servers in a folder of a short name that PostgreSQL's own user can enter; all stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="mealrec-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        made = Stack(Path(folder), worker_options)
        try:
            yield made
        finally:
            made.close()
