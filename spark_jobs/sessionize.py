"""Sessions: a viewer's events with no silence longer than the gap between them. Plain Arrow and numpy, no Spark.

`label` goes through JUDGED rows sorted by ORDER, so that one pass finds copies, machines and sessions. A session's id is a pure
function of (viewer, session start): it does not depend on other viewers, input order, file split or partition count. Whether a
record is a copy, or its viewer a machine, depends on that viewer's UTC day alone: a day can be made anew without the others.

Memory: a batch, or the largest day of one viewer; and a few numbers a viewer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.config import SessionizeConfig
from spark_jobs.validate import JUDGED, MINUTE_MS

ORDER = ("user_id", "timestamp_ms", "event_id", "file", "line")
LABELLED = JUDGED.append(pa.field("moved", pa.bool_()))  # context whose session is not the one it was in
AT_ONCE = 20_000  # rows worth a pass of numpy; a batch of Spark's may be smaller
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Before(NamedTuple):
    """A viewer's last valid row so far: when it was, and where it stood in its session."""

    ms: int
    start: int
    position: int


def label(
    batches: Iterable[pa.RecordBatch],
    config: SessionizeConfig,
    trusted: frozenset[int] = frozenset(),
    before: dict[str, Before] | None = None,
) -> Iterator[pa.Table]:
    """LABELLED: every row once, with its session, or with a reason more. trusted: days whose rows (context) stand in the
    session they say, because what came before them is not here. before: of each viewer of earlier calls, which were of earlier
    days; moved on to these rows."""
    before = {} if before is None else before
    for table in _whole_days(batches):
        yield _label(table, config, trusted, before)


def session_id(user: str, start_ms: int) -> str:
    return hashlib.sha256(f"{user}|{start_ms}".encode()).hexdigest()[:16]


def _whole_days(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Cut where a viewer's day ends: no day of a viewer is seen in two pieces."""
    held: list[pa.Table] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        table = pa.Table.from_batches([batch])
        held.append(table)
        if sum(t.num_rows for t in held) < AT_ONCE:
            continue
        whole = pa.concat_tables(held).combine_chunks()
        changes = np.flatnonzero(_changes(whole))
        cut = int(changes[-1]) if len(changes) else 0
        if cut:
            yield whole.slice(0, cut)
        held = [whole.slice(cut)]
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _changes(table: pa.Table) -> Mask:
    """True where a row's (viewer, day) is not that of the row before; the first row is not marked."""
    days = np.asarray(table["day"].combine_chunks().fill_null(-1))
    changed = _new_viewer(table)
    changed[1:] |= days[1:] != days[:-1]
    changed[:1] = False
    return changed


def _new_viewer(table: pa.Table) -> Mask:
    users = table["user_id"].combine_chunks().fill_null("")
    out = np.ones(len(users), dtype=bool)
    if len(users) > 1:
        out[1:] = np.asarray(pc.not_equal(users.slice(1), users.slice(0, len(users) - 1)))
    return out


def _label(table: pa.Table, config: SessionizeConfig, trusted: frozenset[int], before: dict[str, Before]) -> pa.Table:
    judged_bad = np.asarray(table["reason"].combine_chunks().is_valid())
    rows = np.flatnonzero(~judged_bad)
    columns = {name: table[name].combine_chunks() for name in JUDGED.names}
    start = np.zeros(len(table), dtype=np.int64)
    position = np.zeros(len(table), dtype=np.int32)
    moved = np.zeros(len(table), dtype=bool)
    if len(rows):
        own = table.take(pa.array(rows)) if judged_bad.any() else table
        found = _rejects(own, config)
        keep = np.ones(len(rows), dtype=bool)
        keep[list(found)] = False
        rejected = np.zeros(len(table), dtype=bool)
        rejected[rows[~keep]] = True
        for name, said in zip(
            ("reason", "detail"), zip(*(found[at] for at in sorted(found)), strict=True), strict=False
        ):
            columns[name] = pc.replace_with_mask(columns[name], pa.array(rejected), pa.array(said, pa.string()))
        kept = own.filter(pa.array(keep)) if found else own
        if len(kept):
            begin, place = _sessions(kept, config.gap_minutes * MINUTE_MS, trusted, before)
            at = rows[keep]
            start[at], position[at] = begin, place
            was, where = (np.asarray(kept[n].combine_chunks().fill_null(-1)) for n in ("start_ms", "position"))
            moved[at] = np.asarray(kept["file"].combine_chunks().is_null()) & ((was != begin) | (where != place))
    columns |= {"start_ms": pa.array(start), "position": pa.array(position), "moved": pa.array(moved)}
    return pa.table([columns[name] for name in LABELLED.names], schema=LABELLED)


def _rejects(rows: pa.Table, config: SessionizeConfig) -> dict[int, tuple[str, str]]:
    """Copies by event_id, copies by content, then days of machines: {row: (reason, detail)}."""
    group = np.cumsum(_changes(rows)).astype(np.int64)
    out: dict[int, tuple[str, str]] = {}
    ids = np.asarray(rows["event_id"].combine_chunks().dictionary_encode().indices).astype(np.int64)
    later = _later(group * len(rows) + ids)
    for at in np.flatnonzero(later).tolist():
        out[at] = (
            "duplicate_event",
            f"event_id seen before on that viewer's day: {rows['event_id'][at].as_py()[:100]}",
        )
    ms = np.asarray(rows["timestamp_ms"].combine_chunks())
    crowded = np.zeros(len(rows), dtype=bool)
    together = (ms[1:] == ms[:-1]) & (group[1:] == group[:-1])
    crowded[1:] |= together
    crowded[:-1] |= together
    crowded &= ~later
    at = np.flatnonzero(crowded)
    if len(at):
        fields = (rows[name].take(pa.array(at)).to_pylist() for name in ("video_id", "event_type", "event_id"))
        seen: dict[tuple[Any, ...], str] = {}
        for row, video, kind, event in zip(at.tolist(), *fields, strict=True):
            first = seen.setdefault((group[row], ms[row], video, kind), event)
            if first != event:
                out[row] = ("duplicate_content", f"the same viewer, video, event type and time as {first[:100]}")
    if config.bot_events_a_minute is not None:
        kept = np.ones(len(rows), dtype=bool)
        kept[list(out)] = False
        fresh = np.asarray(rows["file"].combine_chunks().is_valid())
        out |= _machines(group, ms // MINUTE_MS, kept & fresh, config.bot_events_a_minute)
    return out


def _machines(group: Ints, minute: Ints, counted: Mask, limit: int) -> dict[int, tuple[str, str]]:
    at = np.flatnonzero(counted)
    if not len(at):
        return {}
    # sorted by viewer and time: a minute's events are neighbours
    edges = np.flatnonzero(np.r_[True, (group[at][1:] != group[at][:-1]) | (minute[at][1:] != minute[at][:-1])])
    sizes = np.diff(np.r_[edges, len(at)])
    busiest: dict[int, int] = {}
    for edge, size in zip(edges[sizes > limit].tolist(), sizes[sizes > limit].tolist(), strict=True):
        busiest[int(group[at[edge]])] = max(size, busiest.get(int(group[at[edge]]), 0))
    if not busiest:
        return {}
    guilty = at[np.isin(group[at], list(busiest))].tolist()
    return {
        row: (
            "bot_like_rate",
            f"{busiest[int(group[row])]} events of the viewer in one minute of that day, over {limit}",
        )
        for row in guilty
    }


def _later(key: Ints) -> Mask:
    """True for all but the first of equal keys."""
    later = np.ones(len(key), dtype=bool)
    later[np.unique(key, return_index=True)[1]] = False
    return later


def _sessions(
    kept: pa.Table, gap_ms: int, trusted: frozenset[int], before: dict[str, Before]
) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Start of each row's session and its position there; `before` is moved on to each viewer's last row."""
    ms = np.asarray(kept["timestamp_ms"].combine_chunks())
    viewer = _new_viewer(kept)
    first = np.flatnonzero(viewer)
    users = kept["user_id"].take(pa.array(first)).to_pylist()
    anchor = viewer | (np.diff(ms, prepend=ms[:1]) > gap_ms)
    start, position = np.where(anchor, ms, 0), np.zeros(len(ms), dtype=np.int64)
    for at, user in zip(first.tolist(), users, strict=True):
        if (last := before.get(user)) is not None and ms[at] - last.ms <= gap_ms:  # goes on in that session
            start[at], position[at] = last.start, last.position + 1
    if trusted:
        told = np.isin(np.asarray(kept["day"].combine_chunks()), list(trusted))
        told &= np.asarray(kept["file"].combine_chunks().is_null())
        start = np.where(told, np.asarray(kept["start_ms"].combine_chunks().fill_null(0)), start)
        position = np.where(told, np.asarray(kept["position"].combine_chunks().fill_null(0)), position)
        anchor |= told
    index = np.arange(len(ms))
    nearest = np.maximum.accumulate(np.where(anchor, index, 0))
    begin, place = start[nearest], position[nearest] + index - nearest
    end = np.r_[first[1:] - 1, len(ms) - 1]
    before.update(zip(users, map(Before, ms[end].tolist(), begin[end].tolist(), place[end].tolist()), strict=True))
    return begin, place.astype(np.int32)
