"""Viewers' histories: the lake's `sequences` and, on top, what the journal has accepted.

Both are kept in SQLite files below the working folder, looked up by viewer: memory does not grow with viewers or events. The
files are caches: the histories are made again from a pinned version of the table, the index from the journal.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mealrec.config import SessionizeConfig
from mealrec.lake import Lake
from mealrec.schema import ITEMS, SEQUENCES
from mealrec.serving.events import is_positive
from mealrec.serving.journal import Entry, Journal
from mealrec.serving.messages import Event
from mealrec.serving.states import Accepted
from mealrec.serving.world import served_sequences

log = logging.getLogger("mealrec.serve")

VIEWERS_A_BATCH = 4096
HISTORIES, INDEX = "sequences-{}.sqlite", "events.sqlite"
Step = tuple[int, str]  # timestamp_ms, video_id


def merged(nightly: Sequence[Step], since: Iterable[Step]) -> list[str]:
    """Video ids oldest first, each once: what the table holds, then what it does not hold yet, by time."""
    held = {video for _, video in nightly}
    steps = [*nightly, *sorted(step for step in since if step[1] not in held)]
    return [video for _, video in sorted(steps, key=lambda step: step[0])]


class Histories:
    """One pinned version of `sequences`, by viewer."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, lake: Lake, version: int, folder: Path) -> Histories:
        """Open the copy of that version, made now if there is none. Cost: one pass over the table, a batch in memory, and the
        ids of all videos."""
        path = folder / HISTORIES.format(version)
        if not path.is_file():
            building = path.with_suffix(".building")
            building.unlink(missing_ok=True)
            _copy(lake, version, building)
            building.rename(path)
        for other in folder.glob(HISTORIES.format("*")):
            if other != path:
                other.unlink()
        return cls(path)

    def steps(self, user_id: str) -> list[Step]:
        with self._lock:
            row = self._rows.execute("select steps, times from viewer where user_id = ?", (user_id,)).fetchone()
            if row is None:
                return []
            found = []
            for item, time in zip(np.frombuffer(row[0], np.int64), np.frombuffer(row[1], np.int64), strict=True):
                video = self._rows.execute("select video_id from item where item_index = ?", (int(item),)).fetchone()
                found.append((int(time), str(video[0])))
        return found

    def close(self) -> None:
        self._rows.close()


class Index:
    """What the journal holds, by event and by viewer; behind the journal at worst, never ahead of it.

    A second process may read it (is_reader): it sees what was added before it asked. Raises sqlite3.DatabaseError."""

    def __init__(self, path: Path, *, is_reader: bool = False) -> None:
        where = f"{path.as_uri()}?mode={'ro' if is_reader else 'rwc'}"
        self._rows = sqlite3.connect(where, uri=True, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        if is_reader:
            return
        self._rows.executescript(
            """
            pragma journal_mode = wal;
            pragma synchronous = normal;
            create table if not exists journal (folder text primary key) without rowid;
            create table if not exists file (name text primary key, length integer not null) without rowid;
            create table if not exists event (event_id text primary key) without rowid;
            create table if not exists liked (user_id text, video_id text, timestamp_ms integer not null,
                                              primary key (user_id, video_id)) without rowid;
            """
        )

    def follow(self, journal: Path) -> None:
        """Count as unread what is no longer the file that was read: of another folder, or shorter than it was. What was taken
        in from it stays: it was acknowledged, and an event that comes again changes nothing."""
        folder = str(journal.resolve())
        with self._lock, self._rows:
            self._rows.execute("begin immediate")
            if self._rows.execute("select 1 from journal where folder = ?", (folder,)).fetchone() is None:
                self._rows.execute("delete from file")
                self._rows.execute("delete from journal")
                self._rows.execute("insert into journal values (?)", (folder,))
            for name, length in self._rows.execute("select name, length from file").fetchall():
                path = journal / name
                if not path.exists() or path.stat().st_size < length:
                    self._rows.execute("delete from file where name = ?", (name,))

    def length(self, name: str) -> int:
        """How much of a journal file is in here."""
        with self._lock:
            row = self._rows.execute("select length from file where name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def unknown(self, events: Sequence[Event]) -> list[Event]:
        """The events whose id is not in here, each id once."""
        with self._lock:
            first = {e.event_id: e for e in reversed(events)}
            known = "select 1 from event where event_id = ?"
            return [e for e in reversed(first.values()) if self._rows.execute(known, (e.event_id,)).fetchone() is None]

    def add(self, name: str, entries: Iterable[Entry], is_liked: Callable[[Event], bool]) -> None:
        """Take in a journal file's next entries, all or none."""
        first_time = "insert into liked values (?, ?, ?) on conflict do update set timestamp_ms = min(timestamp_ms, ?)"
        with self._lock, self._rows:
            self._rows.execute("begin immediate")
            for end, event in entries:
                self._rows.execute("insert or replace into file values (?, ?)", (name, end))
                if event is None:
                    continue
                fresh = self._rows.execute("insert or ignore into event values (?)", (event.event_id,)).rowcount
                if fresh and is_liked(event):
                    at = event.timestamp
                    self._rows.execute(first_time, (event.user_id, event.video_id, at, at))

    def steps(self, user_id: str) -> list[Step]:
        with self._lock:
            rows = self._rows.execute("select timestamp_ms, video_id from liked where user_id = ?", (user_id,))
            return [(int(time), str(video)) for time, video in rows]

    def close(self) -> None:
        self._rows.close()


class ViewerStates:
    """Histories and journal of one server; thread-safe."""

    def __init__(
        self, lake: Lake, journal: Path, config: SessionizeConfig, today: Callable[[], str], through: str | None = None
    ) -> None:
        """Takes in what the journal holds beyond the index. through: source.through of the run that is served. Raises
        journal.Busy when another server writes the journal."""
        self.lake, self.config, self.today, self.through = lake, config, today, through
        self.journal = Journal(journal)
        self.folder = lake.folder("serving", "viewers")
        self.index = _opened(self.folder / INDEX)
        self.index.follow(self.journal.folder)
        self._writing = threading.Lock()
        self._newest: int | None = None
        self._version: int | None = None
        self._histories: Histories | None = None
        for name in self.journal.files():
            self._catch_up(name)
        self.refresh()

    def refresh(self) -> None:
        """Go on to the newest version of `sequences` that is not a backfill's, when there is one."""
        newest = self.lake.version(SEQUENCES)
        version = self._version if newest == self._newest else served_sequences(self.lake, self.through)
        if version is not None and version != self._version:
            self._histories = Histories.of(self.lake, version, self.folder)
            self._version = version
            log.info("histories are those of sequences version %d", version)
        self._newest = newest

    def history(self, user_id: str) -> list[str]:
        """Video ids oldest first; empty for an unknown viewer."""
        histories = self._histories
        return merged([] if histories is None else histories.steps(user_id), self.index.steps(user_id))

    def accept(self, events: Sequence[Event]) -> Accepted:
        """On disk when it returns. Raises OSError (nothing accepted) when the journal can't be written."""
        with self._writing:
            fresh = self.index.unknown(events)
            if fresh:
                self._catch_up(self.journal.append(fresh, self.today()))
        return Accepted(len(fresh), len(events) - len(fresh))

    def close(self) -> None:
        self.journal.close()
        self.index.close()

    def _catch_up(self, name: str) -> None:
        entries = self.journal.entries(name, self.index.length(name))
        self.index.add(name, entries, lambda event: is_positive(event, self.config))


def _opened(path: Path) -> Index:
    """The index, empty when the file is damaged: it is made again from the journal."""
    try:
        return Index(path)
    except sqlite3.DatabaseError as error:
        log.warning("%s is damaged (%s): made again from the journal", path, error)
        for damaged in path.parent.glob(f"{path.name}*"):
            damaged.unlink()
        return Index(path)


def _copy(lake: Lake, version: int, path: Path) -> None:
    rows = sqlite3.connect(path)
    with rows:
        rows.execute("create table viewer (user_id text primary key, steps blob, times blob) without rowid")
        rows.execute("create table item (item_index integer primary key, video_id text)")
        items = lake.read(ITEMS, columns=["item_index", "video_id"])  # append-only: a newer version names no fewer
        rows.executemany("insert into item values (?, ?)", zip(*(c.to_pylist() for c in items.columns), strict=True))
        dataset = lake.dataset(SEQUENCES, version)
        columns = ["user_id", "item_index", "timestamp_ms"]
        for batch in dataset.to_batches(columns=columns, batch_size=VIEWERS_A_BATCH):
            users, lists, times = (batch.column(name).to_pylist() for name in columns)
            packed = (
                (user, np.array(item, np.int64).tobytes(), np.array(time, np.int64).tobytes())
                for user, item, time in zip(users, lists, times, strict=True)
            )
            rows.executemany("insert into viewer values (?, ?, ?)", packed)
    rows.close()
