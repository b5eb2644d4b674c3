"""Short notice: a node that is about to be taken away, a driver that is asked to end. The workers hear of either in time to
save the very step at which they stand."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mealrec.training.loop import Notice
from mealrec.training.peers import Peers

LOOK_EVERY_S = 0.5
GRACE_S = 25.0  # Kubernetes, and who takes spot machines away, wait 30 s before they kill
_NOTHING, _LOOK, _STOP = range(3)  # what rank 0 tells the others


class Stopped(RuntimeError):
    """The driver was asked to end (SIGTERM); the same run goes on from its last checkpoint."""


def notices(
    peers: Peers, stop_file: Path, preemption: Callable[[], object], say: Callable[[str], None]
) -> Callable[[], Notice]:
    """What a worker asks after every step: "stop" once stop_file is there, "save" once for each preemption that is announced.

    Rank 0 looks twice a second and tells the others in one sum, so that all hear the same at the same step. preemption: Ray
    Train's, a barrier of all workers; None, or what is known of the nodes that will go."""
    looked, heeded = time.monotonic(), None

    def look() -> int:
        nonlocal looked
        if peers.rank != 0 or time.monotonic() - looked < LOOK_EVERY_S:
            return _NOTHING
        looked = time.monotonic()
        return _STOP if stop_file.exists() else _LOOK

    def notice() -> Notice:
        nonlocal heeded
        found = int(peers.total(torch.tensor(look())))
        if found == _STOP:
            say("told to stop: saving where we stand")
            return "stop"
        info = preemption() if found == _LOOK else None
        if info is None or info == heeded:
            return "none"
        heeded = info
        say("a node of this run is about to be taken away: saving where we stand")
        return "save"

    return notice


@contextmanager
def stopped_by_sigterm(stop_file: Path) -> Iterator[None]:
    """Inside, a SIGTERM makes stop_file, which tells the workers to save and end; at its end Stopped is raised in place of
    whatever came of it. A second SIGTERM, or GRACE_S seconds, and nobody waits for them any longer.

    Python gives signals to its main thread alone: entered in another one it changes nothing."""
    stop_file.unlink(missing_ok=True)  # left by a driver that was killed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    impatient = threading.Timer(GRACE_S, os.kill, (os.getpid(), signal.SIGTERM))
    impatient.daemon = True
    is_told = False

    def told(number: int, frame: object) -> None:
        nonlocal is_told
        if is_told:
            raise KeyboardInterrupt  # what a wait for Ray lets through
        is_told = True
        stop_file.touch()
        impatient.start()

    before = signal.signal(signal.SIGTERM, told)
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if not is_told:
            raise
    finally:
        impatient.cancel()
        signal.signal(signal.SIGTERM, before)
        stop_file.unlink(missing_ok=True)
    if is_told:
        raise Stopped("asked to end by SIGTERM")
