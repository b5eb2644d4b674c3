"""`mealrec serve` as a team would start it: real Ray Serve, two replicas, and what happens to them at night."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from mealrec.lake import Lake
from tests.serving.conftest import Registry
from tests.serving.running import TOKEN, Load, Server, served, serving, two_versions
from tests.serving.test_models import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_replicas_and_keeper_killed_and_an_alias_moved_under_load_drop_nothing(
    registry: Registry, bundles: list[Path], tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    versions = two_versions(registry, bundles, lake)
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
