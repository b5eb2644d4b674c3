"""A real Ray cluster of several nodes on this machine, started by the project's own scripts on free ports."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from tests.integration.servers import ROOT, START, free_ports, until

SMALL = ("--num-cpus", "1", "--object-store-mb", "80")
START_S = 240  # a slow machine must not fail the test


class Cluster:
    """A head and nodes of one CPU each, with a token of their own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray's socket paths may not be long
        port, dashboard, client = free_ports(3)
        self.gcs, self.address = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        self.token = secrets.token_hex(16)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_health_check_period_ms": "500",  # a dead node is noticed sooner
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.started: list[psutil.Popen] = []
        ports = ["--port", str(port), "--dashboard-port", str(dashboard), "--client-port", str(client)]
        self.head = self._start("ray_head.py", *ports, "--temp-dir", str(self.folder))
        self._wait_for(self.head)

    def _start(self, script: str, *arguments: str) -> psutil.Popen:
        ready, log = (self.folder / f"{len(self.started)}.{suffix}" for suffix in ("ready", "log"))
        with ready.open("wb") as out, log.open("wb") as err:
            command = [sys.executable, str(START / script), *arguments, *SMALL]
            process = psutil.Popen(command, env=self.env, stdout=out, stderr=err)
        self.started.append(process)
        return process

    def _wait_for(self, starter: psutil.Popen) -> None:
        number = self.started.index(starter)
        ready, log = (self.folder / f"{number}.{suffix}" for suffix in ("ready", "log"))

        def answers() -> bool:
            assert starter.poll() is None, log.read_text()[-3000:]
            return ready.read_text().startswith("ready ")

        until(answers, f"node {number} is ready: {log}", START_S, every_s=0.1)

    def grow_to(self, nodes: int) -> None:
        """Add nodes until so many run, the head among them."""
        missing = nodes - 1 - len(self.nodes())
        address = ["--address", self.gcs, "--dashboard", self.address]
        for _ in range(missing):  # one after the other: several at once take longer on two cores
            self._wait_for(self._start("ray_node.py", *address))

    def nodes(self) -> list[psutil.Process]:
        """The raylets of the nodes beside the head, oldest first."""
        starters = [p for p in self.started if p is not self.head and p.is_running()]
        return [child for p in starters for child in p.children(recursive=True) if child.name() == "raylet"]

    def node_with(self, worker: str) -> psutil.Process:
        """The raylet of a node beside the head on which a worker whose title holds `worker` runs."""
        for raylet in self.nodes():
            if any(worker in " ".join(child.cmdline()) for child in raylet.children(recursive=True)):
                return raylet
        raise AssertionError(f"no node runs {worker}")

    def freeze(self, worker: str) -> None:
        """SIGSTOP every process whose title holds `worker`."""
        for starter in self.started:
            for process in starter.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if worker in " ".join(process.cmdline()):
                        process.suspend()

    def mealrec(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """`mealrec ray ...` against this cluster."""
        return subprocess.run(
            [sys.executable, "-m", "mealrec.cli", "ray", *arguments, "--address", self.address],
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def stop(self) -> None:
        processes = [p for starter in self.started if starter.is_running() for p in starter.children(recursive=True)]
        for starter in reversed(self.started):
            with contextlib.suppress(psutil.NoSuchProcess):
                starter.terminate()
        _, left = psutil.wait_procs([*self.started, *processes], timeout=15)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
