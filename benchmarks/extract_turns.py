"""The stage and the bare loop on the same cores in turns: while one runs, every process of the other is stopped.

A machine whose speed wanders within minutes gives two runs, one after the other, two machines; turns of seconds share what it
gives. Both go through the same clips in the same order, from when each of their processes has done its first, and neither
gets to its end, so the count has no start and no tail. While the loop runs Ray stands still too.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from mealrec.config import RunConfig

RESAMPLES = 2000


@dataclass
class Rival:
    """Some processes and all below them. finished(): clips done so far."""

    roots: list[subprocess.Popen[Any]]
    finished: Callable[[], int]
    clips: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def stop(self) -> None:
        """Twice: what was forked while the first signals were on their way is found by the second round."""
        for _ in range(2):
            self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> None:
        before, began = self.finished(), time.monotonic()
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        self.stop()
        self.seconds.append(time.monotonic() - began)
        self.clips.append(self.finished() - before)
        if any(root.poll() is not None for root in self.roots):
            raise RuntimeError("it came to its end within a turn: give it more clips (--rounds)")

    def warm_up(self, clips: int) -> None:
        """Let it run until so many clips are done, then stop it."""
        self._signal(signal.SIGCONT)
        while self.finished() < clips:
            time.sleep(0.1)
            if any(root.poll() is not None for root in self.roots):
                raise RuntimeError("it ended before its first clips were done")
        self.stop()

    def kill(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for root in self.roots:
            root.wait()

    def _signal(self, number: int) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for root in self.roots:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(root.pid)
                found += [process, *process.children(recursive=True)]
        return found


def share(stage: Rival, bare: Rival, pairs: int, seconds: float) -> dict[str, Any]:
    """The stage's rate over the loop's, in so many pairs of turns, with a 95 % interval (pairs drawn again, fixed seed)."""
    for number in range(pairs):
        for rival in (bare, stage) if number % 2 else (stage, bare):
            rival.turn(seconds)
        print(f"pair {number + 1} of {pairs}: stage {stage.clips[-1]}, bare {bare.clips[-1]} clips", file=sys.stderr)
    rng = random.Random(0)
    drawn = [_ratio(stage, bare, [rng.randrange(pairs) for _ in range(pairs)]) for _ in range(RESAMPLES)]
    drawn.sort()
    return {
        "pairs": pairs,
        "turn_s": seconds,
        "stage": _row(stage),
        "bare": _row(bare),
        "share": round(_ratio(stage, bare, list(range(pairs))), 3),
        "interval": [round(drawn[RESAMPLES // 40], 3), round(drawn[-RESAMPLES // 40], 3)],
    }


def _ratio(stage: Rival, bare: Rival, pairs: list[int]) -> float:
    def rate(rival: Rival) -> float:
        return sum(rival.clips[i] for i in pairs) / sum(rival.seconds[i] for i in pairs)

    return rate(stage) / rate(bare)


def _row(rival: Rival) -> dict[str, Any]:
    clips, seconds = sum(rival.clips), sum(rival.seconds)
    return {
        "clips": clips,
        "seconds": round(seconds, 2),
        "clips_per_s": round(clips / seconds, 2),
        "turns": rival.clips,
    }


@contextmanager
def stage_process(config: RunConfig, folder: Path) -> Iterator[Rival]:
    """`mealrec extract` in a process of its own, stopped once every actor has a part. Its clips: the rows of finished parts."""
    (folder / "config.json").write_text(config.model_dump_json())
    command = [str(Path(sys.executable).parent / "mealrec"), "extract", "--config", str(folder / "config.json")]
    rival = Rival([subprocess.Popen(command, stdout=sys.stderr)], lambda: _rows(Path(config.lake)))
    try:
        rival.warm_up(config.features.actors * config.features.batch_videos)
        yield rival
    finally:
        rival.kill()


def _rows(lake: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in (lake / "features").glob("bucket=*/part-*.parquet"))
