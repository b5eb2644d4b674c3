"""Scattered over places, cut into pieces of a day and gathered in any order, rows get the sessions that they get as a whole."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mealrec.config import SessionizeConfig
from spark_jobs import sessionize, shuffle
from spark_jobs.sessionize import ORDER, Before, label
from spark_jobs.validate import DAY_MS, JUDGED

CONFIG = SessionizeConfig(gap_minutes=30, bot_events_a_minute=3)
MIDNIGHT = 20_458 * DAY_MS
MINUTE = 60_000


@st.composite
def judged(draw: st.DrawFn) -> pa.Table:
    """Valid rows around two midnights, copies among them, and rejects without a viewer, a time or both."""
    rows = []
    for line in range(draw(st.integers(1, 60))):
        user = draw(st.sampled_from(["u1", "u2", "ü", None]))
        ms = draw(st.one_of(st.none(), st.integers(-90, 1530).map(lambda n: MIDNIGHT + n * MINUTE)))
        bad = user is None or ms is None or draw(st.integers(0, 9)) == 0
        row = dict.fromkeys(JUDGED.names) | {"user_id": user, "timestamp_ms": ms, "line": line, "file": line % 3}
        row |= {
            "event_id": f"e{draw(st.integers(0, 40))}",
            "video_id": draw(st.sampled_from("vw")),
            "event_type": "view",
        }
        row |= {"day": None if ms is None else ms // DAY_MS, "reason": "bad_type" if bad else None}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=JUDGED)


def by_place(table: pa.Table, places: int, draw: random.Random) -> list[list[shuffle.Piece]]:
    pieces: list[list[shuffle.Piece]] = [[] for _ in range(places)]
    for place, piece in shuffle.scattered(table.to_batches(max_chunksize=7), places):
        pieces[place].append(piece)
    for own in pieces:
        draw.shuffle(own)
    return pieces


def rows_of(tables: Iterable[pa.Table]) -> dict[int, dict[str, Any]]:
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["line"] for row in rows}) == len(rows)
    return {row["line"]: row for row in rows}


@settings(max_examples=80, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=judged(), places=st.integers(1, 4), together=st.sampled_from([1, 2**30]), seed=st.integers(0, 99))
def test_a_day_after_the_other_gives_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, table: pa.Table, places: int, together: int, seed: int
) -> None:
    monkeypatch.setattr(sessionize, "AT_ONCE", 1)
    monkeypatch.setattr(shuffle, "SCATTERED_BYTES", 500)
    monkeypatch.setattr(shuffle, "SORTED_BYTES", together)
    monkeypatch.setattr(shuffle, "HELD_BYTES", 100)
    found: list[pa.Table] = []
    for pieces in by_place(table, places, random.Random(seed)):
        before: dict[str, Before] = {}
        for rows in shuffle.in_order(pieces):
            found += label(rows.to_batches(max_chunksize=5), CONFIG, frozenset(), before)
    ordered = table.sort_by([(name, "ascending") for name in ORDER]).combine_chunks()
    assert rows_of(found) == rows_of(label(ordered.to_batches(), CONFIG))


@settings(max_examples=40, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(table=judged(), seed=st.integers(0, 99))
def test_rows_come_sorted_whatever_order_their_pieces_came_in(table: pa.Table, seed: int) -> None:
    (pieces,) = by_place(table, 1, random.Random(seed))
    (made,) = shuffle.in_order(pieces)
    keys = [(name, "ascending", "at_start") for name in ORDER]
    assert made.to_pylist() == table.take(pa.compute.sort_indices(table, keys)).to_pylist()


def test_a_viewer_has_one_place_and_nobody_s_rows_are_spread() -> None:
    users = ["u1", "u2", None] * 20
    rows = [dict.fromkeys(JUDGED.names) | {"user_id": user, "line": n} for n, user in enumerate(users)]
    places: dict[str | None, set[int]] = {user: set() for user in users}
    for place, (_, data) in shuffle.scattered(pa.Table.from_pylist(rows, schema=JUDGED).to_batches(), 8):
        for user in pa.ipc.open_stream(data).read_all()["user_id"].to_pylist():
            places[user].add(place)
    assert len(places["u1"]) == len(places["u2"]) == 1 and len(places[None]) == 8
