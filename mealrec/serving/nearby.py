"""Viewers' histories read from the keeper's own files, by a replica on the same node: without a call to the keeper."""

from __future__ import annotations

import threading
from pathlib import Path

from mealrec.serving.viewers import HISTORIES, INDEX, Histories, Index, merged


class Nearby:
    """What viewers.ViewerStates would answer; thread-safe. The files are opened again when the keeper exchanges one."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError or sqlite3.Error, as `history` does, where the keeper has not made its files, or is making them."""
        self.folder = folder
        self._lock = threading.Lock()
        self._made: int | None = None
        self._histories: Histories | None = None
        self._index: Index | None = None
        self.history("")

    def history(self, user_id: str) -> list[str]:
        """Video ids oldest first; empty for an unknown viewer. Sees every event acknowledged before the call."""
        with self._lock:
            made = self.folder.stat().st_mtime_ns  # changes when a file comes or goes, not when one is written to
            if made != self._made:
                self._open_again()
                self._made = made
            assert self._index is not None
            nightly = [] if self._histories is None else self._histories.steps(user_id)
            return merged(nightly, self._index.steps(user_id))

    def close(self) -> None:
        for held in (self._histories, self._index):
            if held is not None:
                held.close()
        self._histories = self._index = None

    def _open_again(self) -> None:
        self.close()
        self._made = None  # should this fail, the next call tries again
        newest = max(self.folder.glob(HISTORIES.format("*")), key=lambda path: path.stat().st_mtime_ns, default=None)
        self._histories = None if newest is None else Histories(newest)
        self._index = Index(self.folder / INDEX, is_reader=True)
