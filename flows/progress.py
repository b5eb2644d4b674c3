"""A progress artifact of a long stage, moved by the stage's own progress lines: mealrec itself knows nothing of Prefect."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact

LONG = ("extract", "train")
# "12/24 videos, ..." and "warmup epoch 3/12: ..."; a training's two parts go from 0 to 100 one after the other
FRACTION = re.compile(r"^(?:\w+ epoch )?(\d+)/(\d+)\b")
LEAST_S = 2.0  # between two updates


def percent(line: str) -> float | None:
    """How far a progress line says the stage is, None where it doesn't say."""
    found = FRACTION.match(line)
    if found is None or int(found.group(2)) == 0:
        return None
    return min(100.0 * int(found.group(1)) / int(found.group(2)), 100.0)


class _Follow(logging.Handler):
    """Moves the artifact when a line says how far the stage is. Lines come from other threads too, which know no flow run:
    the context is the one that we were made in."""

    def __init__(self, artifact: Any) -> None:
        super().__init__(logging.INFO)
        self.artifact, self.context, self.last = artifact, copy_context(), 0.0

    def emit(self, record: logging.LogRecord) -> None:
        done = percent(record.getMessage())
        if done is None or (done < 100 and time.monotonic() - self.last < LEAST_S):
            return
        self.last = time.monotonic()
        self.move(done, record.getMessage())

    def move(self, done: float, line: str) -> None:
        try:
            self.context.copy().run(update_progress_artifact, self.artifact, done, description=line)
        except Exception:  # a server that is away must not stop a stage: logging's own way to say so
            logging.getLogger(__name__).warning("the progress artifact was not updated", exc_info=True)


@contextmanager
def shown(stage: str) -> Iterator[None]:
    """Let a stage's lines through to the flow run's log, and show a long stage's progress as artifact `mealrec-<stage>` while
    the body runs; 100 at its end."""
    ours = logging.getLogger("mealrec")
    if ours.level == logging.NOTSET:  # Prefect gives it a handler, but leaves it at the root's level, which is warnings
        ours.setLevel(logging.INFO)
    if stage not in LONG:
        yield
        return
    artifact = create_progress_artifact(0.0, key=f"mealrec-{stage}", description=f"stage {stage}")
    follow, logger = _Follow(artifact), logging.getLogger(f"mealrec.{stage}")
    logger.addHandler(follow)
    try:
        yield
    finally:
        logger.removeHandler(follow)
    follow.move(100.0, f"stage {stage} is done")
