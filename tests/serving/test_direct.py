"""`mealrec serve --direct`: one process that does what replicas do, and loses nothing when it is killed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx
import psutil
import pytest

from mealrec.config import ConfigError, RunConfig, override
from mealrec.lake import Lake
from mealrec.serving import direct
from tests.serving.conftest import Registry
from tests.serving.running import NOW, TOKEN, Load, served, serving, two_versions


@pytest.mark.slow
def test_an_alias_is_followed_under_load_and_a_killed_process_loses_no_event(
    registry: Registry, bundles: list[Path], tmp_path: Path
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    versions = two_versions(registry, bundles, lake)
    log = tmp_path / "log"
    with serving(registry, lake, log, "--direct") as server:
        assert httpx.get(f"{server.address}/metrics").status_code == 401
        assert psutil.Process(server.process.pid).children() == [], "there is no Ray"
        with Load(server) as load:
            served(load, 20)
            registry.promote(versions[1])
            served(load, 20, lambda: load.versions["2"] > 0)
            server.process.kill()
            server.process.wait()
        assert set(load.statuses) == {200} and set(load.versions) == {"1", "2"}
    with serving(registry, lake, log, "--direct") as server:
        known = httpx.post(f"{server.address}/recommend", json={"user_id": "u1"}, headers=server.headers).json()
        assert known["history_length"] == 3, "two from the table, one from the journal"
        event = {"user_id": "u1", "video_id": "v3", "event_type": "like", "timestamp": NOW}
        again = [event | {"event_id": one} for one in load.acknowledged]
        answer = httpx.post(f"{server.address}/events", json={"events": again}, headers=server.headers)
        assert answer.json() == {"accepted": 0, "duplicates": len(again)} and again
        text = httpx.get(f"{server.address}/metrics", headers=server.headers).text
        assert f'replica="{server.process.pid}"' in text
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    assert TOKEN not in log.read_text()


def test_an_address_that_was_taken_meanwhile_is_an_error_and_leaves_no_thread(
    registry: Registry, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct.uvicorn.Server, "run", lambda self: None)
    settings = {"journal": str(tmp_path / "events")}
    config = RunConfig(lake=str(tmp_path / "lake"), registry=registry.tracker.config, serve=settings)
    with pytest.raises(RuntimeError, match=r"did not start on 127.0.0.1 port 8080"), direct.running(config, None):
        pass
    assert "endpoint" not in {thread.name for thread in threading.enumerate()}


def test_several_replicas_are_not_one_process() -> None:
    with pytest.raises(ConfigError, match=r"replicas must be 1 \(given: 2\)"):
        override(RunConfig(lake="lake"), ["serve.direct=true", "serve.replicas=2"])
