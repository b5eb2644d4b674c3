"""Two processes promote at the same time, round by round, against a real MLflow server on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mealrec.config import RegistryConfig
from mealrec.lake import Lake
from mealrec.registry import promotion, trail
from mealrec.registry.gate import Check, Decision
from mealrec.registry.promotion import Author
from mealrec.registry.tracking import EVALUATED_TAG, Tracker
from tests.integration.servers import stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

REFUSED = Decision(False, (Check("beats_markov", False, "does not beat markov"),))


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.night)])
def test_of_two_racing_promotions_one_wins_each_round_and_no_refused_version_is_ever_champion(
    tmp_path: Path, rounds: int
) -> None:
    racers: dict[str, subprocess.Popen[bytes]] = {}
    with stack() as servers:
        servers.mlflow()
        try:
            race(tmp_path, servers.tracking_uri, racers, rounds)
        finally:
            for process in racers.values():
                process.kill()


def race(folder: Path, uri: str, racers: dict[str, subprocess.Popen[bytes]], rounds: int) -> None:
    tracker, lake = Tracker(RegistryConfig(tracking_uri=uri), folder / "work"), Lake(str(folder / "lake"))
    refused = set()
    for name in ("ann", "ben"):
        own, bad = (_register(tracker, f"{name}-{n}") for n in range(2))
        state = promotion.settle(tracker, lake, trail.read(lake, "mealrec"), bad, REFUSED, Author(name, "now"))
        promotion.follow(tracker, lake, state)
        (folder / name).write_text(f"{own.version} {bad.version}")
        refused.add(bad.version)
        command = [sys.executable, str(Path(__file__).with_name("race.py")), lake.root, str(folder / "work"), uri, name]
        racers[name] = subprocess.Popen([*command, str(rounds), str(folder)], cwd=Path(__file__).parents[2])
    seen, outcomes = Counter[str](), []
    for n in range(rounds):
        _wait([folder / f"ready-{name}-{n}" for name in racers])
        (folder / f"go-{n}").touch()
        done = [folder / f"{name}-{n}" for name in racers]
        while not all(path.exists() and path.read_text() for path in done):
            champion = promotion.by_alias(tracker, "champion")
            if champion is not None:
                seen[champion.version] += 1
            time.sleep(0.05)  # not oftener: the racers wait for the same server
            assert all(process.poll() in (None, 0) for process in racers.values())
        outcomes.append(sorted(path.read_text() for path in done))
        newest = promotion.by_alias(tracker, "champion")
        assert newest is not None and newest.version == trail.read(lake, "mealrec").champion
    assert outcomes == [["lost", "won"]] * rounds
    assert seen and not refused & set(seen)
    entries = trail.read(lake, "mealrec").entries
    assert [e.action for e in entries].count("promoted") == rounds
    assert {process.wait(30) for process in racers.values()} == {0}


def _register(tracker: Tracker, digest: str) -> promotion.Version:
    run = tracker.start("train", digest, digest)
    return promotion.register(tracker, f"runs:/{run}/model", run, {EVALUATED_TAG: digest})


def _wait(paths: list[Path]) -> None:
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"never came: {[p.name for p in paths if not p.exists()]}"
        time.sleep(0.002)
