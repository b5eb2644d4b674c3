"""One racer of the promotion race, a process of its own: python race.py LAKE WORK TRACKING_URI NAME ROUNDS FOLDER.

Each round it waits for FOLDER/go-N, tries to promote a version of its own that passed, then (every tenth round) one that was
refused, and writes what happened to FOLDER/NAME-N."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mealrec.config import RegistryConfig
from mealrec.lake import Lake, LostRace
from mealrec.registry import promotion, trail
from mealrec.registry.gate import Check, Decision
from mealrec.registry.promotion import Author, PromotionError
from mealrec.registry.tracking import Tracker

PASSED = Decision(True, (Check("all", True, "fine"),))


def main(lake_root: str, work: str, uri: str, name: str, rounds: int, folder: Path) -> None:
    tracker, lake = Tracker(RegistryConfig(tracking_uri=uri), Path(work)), Lake(lake_root)
    own, refused = (folder / name).read_text().split()
    me = Author(name, "2026-01-01T00:00:00+00:00")
    for n in range(rounds):
        state = trail.read(lake, "mealrec")
        (folder / f"ready-{name}-{n}").touch()
        while not (folder / f"go-{n}").exists():
            time.sleep(0.002)
        try:
            committed = promotion.settle(tracker, lake, state, promotion.get(tracker, own), PASSED, me)
            outcome = "won"
        except LostRace:
            committed, outcome = trail.read(lake, "mealrec"), "lost"
        promotion.follow(tracker, lake, committed)
        if n % 10 == 0:
            try:
                promotion.rollback(tracker, lake, me, to=refused)
                outcome = "promoted what the gate refused"
            except PromotionError:
                pass
        (folder / f"{name}-{n}").write_text(outcome)


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), Path(sys.argv[6]))  # type: ignore[call-arg]
