"""The models that answer requests: loaded from the registry's aliases, exchanged in the background when an alias moves.

The old version answers until the new one is loaded and has predicted once, so a move drops no request. A version that can't
be loaded or predicts nonsense is refused for good and the old one stays. A registry that can't be reached is asked again, and
so is a version whose load failed for another reason than its bundle, as want of memory: after a minute, then twice as long each
time, an hour at most.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np

from mealrec.config import IndexConfig
from mealrec.model.window import Whole
from mealrec.serving.recommender import BundleError, Recommender

log = logging.getLogger("mealrec.serve")

FOLLOWED = ("champion", "challenger")
WARM_UP_K = 10
AGAIN_AFTER_S, AGAIN_AFTER_MOST_S = 60.0, 3600.0


class NoModel(RuntimeError):
    """No version is loaded for an alias; the message says why."""


class Unreachable(RuntimeError):
    """The registry or its artifact store did not answer; worth another try."""


class Source(Protocol):
    """Where versions come from. Both methods raise Unreachable when the store does not answer."""

    def version(self, alias: str) -> str | None:
        """The version an alias stands on, None where the alias or the model does not exist."""
        ...

    def bundle(self, version: str, scratch: Path) -> Path:
        """The bundle folder of a version, copied below `scratch`. Raises BundleError where the version has none."""
        ...


@dataclass(frozen=True)
class Served:
    """A version that answers requests; loaded: UTC time, ISO-8601. It stays usable after a swap, whoever holds it."""

    version: str
    recommender: Recommender
    loaded: str

    @property
    def loaded_time(self) -> datetime:
        return datetime.fromisoformat(self.loaded)


@dataclass
class Counts:
    """Since this process began. refused: version -> reason; failed: loads that failed and are tried again; unreachable: asks of
    the registry that got no answer."""

    swaps: int = 0
    unreachable: int = 0
    failed: int = 0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pause:
    """A version that failed to load is left alone `seconds` long, until `over` on the clock."""

    seconds: float
    over: float


class Models:
    """Versions by alias; `get` never waits for a load. Memory: one recommender a distinct version.

    compiler: makes native code of a version, in minutes; until then, and where it can't, the version answers without."""

    def __init__(
        self,
        source: Source,
        scratch: Path,
        aliases: Sequence[str] = FOLLOWED,
        index: IndexConfig | None = None,
        compiler: Callable[[Recommender], Whole] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.index, self.compiler, self.clock = index or IndexConfig(), compiler, clock
        self.source, self.scratch, self.aliases = source, scratch, tuple(aliases)
        self.counts = Counts()
        self._served: dict[str, Served] = {}
        self._pauses: dict[str, Pause] = {}
        self._refreshing, self._compiling = threading.Lock(), threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def get(self, alias: str = "champion") -> Served:
        """Raises NoModel when nothing is loaded for the alias."""
        served = self._served.get(alias)
        if served is None:
            known = ", ".join(self.aliases)
            raise NoModel(f"no model is loaded for alias {alias!r} (aliases followed: {known})")
        return served

    def refresh(self) -> None:
        """Ask where each alias stands and load what moved. Safe to call from any thread; one at a time does the work."""
        with self._refreshing:
            for alias in self.aliases:
                try:
                    self._refresh(alias)
                except Unreachable as error:
                    self.counts.unreachable += 1
                    log.warning("registry unreachable, alias %s stays as it is: %s", alias, error)
            self._drop_folders()

    def follow(self, every_s: float) -> None:
        """Refresh now and then every so many seconds, in a thread of its own, until close."""
        self._thread = threading.Thread(target=self._follow, args=(every_s,), name="models", daemon=True)
        self._thread.start()

    @property
    def is_following(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop following. What is loaded goes on answering."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, every_s: float) -> None:
        while not self._closed.is_set():
            try:
                self.refresh()
            except Exception:  # the thread must outlive whatever a store answers, or no later version is ever served
                self.counts.unreachable += 1
                log.exception("following the registry failed; asked again in %g s", every_s)
            self._closed.wait(every_s)

    def _refresh(self, alias: str) -> None:
        version = self.source.version(alias)
        standing = self._served.get(alias)
        if version is None or version in self.counts.refused or (standing is not None and standing.version == version):
            return  # an alias that was taken away leaves its version serving
        served = next((s for s in self._served.values() if s.version == version), None) or self._load(version)
        if served is None:
            return
        self._served[alias] = served
        if standing is not None:
            self.counts.swaps += 1
        log.info("alias %s: version %s serves%s", alias, version, f" after {standing.version}" if standing else "")
        if self.compiler is not None and alias == self.aliases[0]:  # the one that is asked
            work = threading.Thread(target=self._compile, args=(served, self.compiler), name="compiler", daemon=True)
            work.start()

    def _compile(self, served: Served, compiler: Callable[[Recommender], Whole]) -> None:
        """One version at a time, and none that serves no more."""
        recommender = served.recommender
        with self._compiling:
            if recommender.whole is not None or self._closed.is_set() or served not in self._served.values():
                return
            began = time.monotonic()
            try:
                recommender.whole = compiler(recommender)
            except Exception as error:  # of a compiler, of torch, of the disk: the version answers as it is
                log.warning("version %s answers uncompiled: %s: %s", served.version, type(error).__name__, error)
            else:
                log.info("version %s answers compiled (%.0f s)", served.version, time.monotonic() - began)

    def _load(self, version: str) -> Served | None:
        """Load and warm up; None where the version is refused, or not to be tried yet."""
        pause = self._pauses.get(version)
        if pause is not None and self.clock() < pause.over:
            return None
        folder = self.scratch / version
        try:
            recommender = Recommender.load(self.source.bundle(version, folder))
            recommender.use(self.index)
            warm_up(recommender)
        except Unreachable:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except BundleError as error:
            shutil.rmtree(folder, ignore_errors=True)
            self.counts.refused[version] = f"{type(error).__name__}: {error}"
            log.error("version %s refused: %s", version, self.counts.refused[version])
            return None
        except Exception as error:
            # of this machine, or of a bundle that nobody foresaw: it must not take the old version with it
            shutil.rmtree(folder, ignore_errors=True)
            self._put_off(version, error)
            return None
        self._pauses.pop(version, None)
        return Served(version, recommender, datetime.now(UTC).isoformat(timespec="milliseconds"))

    def _put_off(self, version: str, error: Exception) -> None:
        before = self._pauses.get(version)
        seconds = AGAIN_AFTER_S if before is None else min(2 * before.seconds, AGAIN_AFTER_MOST_S)
        self._pauses[version] = Pause(seconds, self.clock() + seconds)
        self.counts.failed += 1
        log.error(
            "version %s failed to load, tried again in %g s: %s: %s", version, seconds, type(error).__name__, error
        )

    def _drop_folders(self) -> None:
        """Folders of versions that serve no more. Their arrays stay mapped for the requests that still hold them."""
        serving = {s.version for s in self._served.values()}
        for folder in self.scratch.glob("*"):
            if folder.is_dir() and folder.name not in serving:
                shutil.rmtree(folder, ignore_errors=True)


def warm_up(recommender: Recommender) -> None:
    """Predict once, with and without a history. Raises BundleError for ids or scores that can't be served."""
    ids = recommender.video_ids
    if not ids or not all(isinstance(video, str) and video for video in ids) or len(set(ids)) != len(ids):
        raise BundleError("video ids must be distinct, non-empty strings, and at least one")
    newest = len(ids)
    found = recommender.recommend([[1, newest], []], min(WARM_UP_K, newest), exclude_seen=False)
    if not np.isfinite(found.scores).all() or not found.item_index.all():
        raise BundleError("scores of a warm-up request are not finite")
