"""The journal of accepted events: JSON lines in the form of landing event files, on disk before anybody is told so.

One file a UTC day (served-YYYY-MM-DD.jsonl), appended to by one process at a time (a lock says so). The nightly ingest reads
these files like any other, but by our own field names and with viewers' ids as they are; a line is whole or, after a crash
while it was written, was never acknowledged and is cut off.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from mealrec.serving.messages import Event
from mealrec.sources.landing import SERVED

log = logging.getLogger("mealrec.serve")

LOCK = ".served.lock"


class Busy(RuntimeError):
    """Another process writes this journal."""


class Entry(NamedTuple):
    """A line of a journal file; end: the file's length after it; event: None where the line is not one of ours."""

    end: int
    event: Event | None


class Journal:
    """Append-only; not thread-safe: the caller appends from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Takes the lock and cuts torn lines. Raises Busy when another process holds the lock."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise Busy(f"{folder}: another server writes this journal") from None
        self._name, self._fd = "", -1
        for name in self.files():
            _cut_torn_line(folder / name)

    def append(self, events: Sequence[Event], day: str) -> str:
        """Write all of them to the day's file and wait for the disk; returns the file's name. On an OSError (no space) the
        file is as it was before."""
        self._open(f"{SERVED}{day}.jsonl")
        before = os.fstat(self._fd).st_size
        data = "".join(line(event) + "\n" for event in events).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, before)
            raise
        return self._name

    def files(self) -> list[str]:
        """Names of the journal's files, oldest first."""
        return sorted(path.name for path in self.folder.glob(f"{SERVED}*.jsonl"))

    def entries(self, name: str, after: int) -> Iterator[Entry]:
        """A file's entries beyond a length it had before. A line that is no event of ours (edited by hand) is passed over
        with a warning; the nightly ingest will put it into quarantine."""
        with (self.folder / name).open("rb") as file:
            file.seek(after)
            for raw in file:
                try:
                    yield Entry(file.tell(), Event.model_validate_json(raw))
                except ValidationError as error:
                    log.warning("%s, before byte %d: %s", name, file.tell(), error)
                    yield Entry(file.tell(), None)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        os.close(self._lock)

    def _open(self, name: str) -> None:
        """Go on to that file. On an OSError (no descriptor left) the one before stays open, and the next call tries again."""
        if name == self._name:
            return
        fd = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            _sync(self.folder)  # the file's name must survive as well
        except OSError:
            os.close(fd)
            raise
        old, self._fd, self._name = self._fd, fd, name
        if old >= 0:
            os.close(old)


def line(event: Event) -> str:
    """The event as a line of a landing file: absent fields are left out."""
    return json.dumps(event.model_dump(exclude_none=True))


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _cut_torn_line(path: Path) -> None:
    """Cut what a crash left of an unacknowledged line: whatever follows the last newline."""
    with path.open("r+b") as file:
        size = at = file.seek(0, os.SEEK_END)
        while at > 0:
            start = max(0, at - 65536)
            file.seek(start)
            newline = file.read(at - start).rfind(b"\n")
            at = start + newline + 1 if newline >= 0 else start
            if newline >= 0:
                break
        if at < size:
            log.warning("%s: cut %d bytes of a line that was never acknowledged", path.name, size - at)
            file.truncate(at)
