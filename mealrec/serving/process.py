"""What the endpoint's processes hold: models that follow the registry, viewers' states that follow the lake."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from mealrec.config import RunConfig, ServeConfig
from mealrec.lake import Lake
from mealrec.registry.source import RegistrySource
from mealrec.registry.tracking import Tracker
from mealrec.serving.compiled import compiled
from mealrec.serving.folders import own_folder
from mealrec.serving.journal import Busy
from mealrec.serving.models import Models
from mealrec.serving.viewers import ViewerStates
from mealrec.sources.landing import locate

log = logging.getLogger("mealrec.serve")

BUSY_S = 30.0  # how long the lock of a process that is still dying is waited for
SWITCH_S = 5e-4  # after which a thread of the model lets the event loop go on: a tenth of Python's own


def address_of(settings: ServeConfig) -> str:
    """Where the endpoint answers."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def models_of(config: RunConfig) -> Models:
    """The champion loaded, where there is one, and this process made ready to answer from it."""
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    lake = Lake(config.lake, config.work)
    source = RegistrySource(Tracker(config.registry, lake.work))
    compiler = compiled if config.serve.compiled else None
    models = Models(source, own_folder(lake.folder("serving", "models")), index=config.index, compiler=compiler)
    models.refresh()
    gc.collect()
    gc.freeze()  # going over all that libraries and the model hold stops the process for a third of a second
    return models


def states_of(config: RunConfig) -> ViewerStates:
    """Viewers' states, which go on to newer versions of `sequences` in a thread of their own. Raises journal.Busy when another
    server writes the journal."""
    lake = Lake(config.lake, config.work)
    journal = Path(config.serve.journal) if config.serve.journal else locate(config).events
    states = _when_free(lake, journal, config)
    threading.Thread(target=_follow, args=(states, config.serve.poll_s), name="viewers", daemon=True).start()
    return states


def _when_free(lake: Lake, journal: Path, config: RunConfig) -> ViewerStates:
    end = time.monotonic() + BUSY_S
    while True:
        try:
            through = config.source.through
            return ViewerStates(lake, journal, config.sessionize, lambda: datetime.now(UTC).date().isoformat(), through)
        except Busy:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _follow(states: ViewerStates, every_s: float) -> None:
    while True:
        time.sleep(every_s)
        try:
            states.refresh()
        except Exception:  # the thread must outlive a lake that can't be read; the version it has goes on serving
            log.exception("looking for a newer version of sequences failed; asked again in %g s", every_s)
