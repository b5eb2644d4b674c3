"""Accepted events: on disk first, once each, found again after whatever happened to the process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from mealrec.config import SessionizeConfig
from mealrec.lake import Lake, Provenance
from mealrec.schema import EVENT_COLUMNS, ITEMS, SCHEMAS, SEQUENCES
from mealrec.serving.journal import Busy, Journal
from mealrec.serving.messages import Event
from mealrec.serving.nearby import Nearby
from mealrec.serving.viewers import ViewerStates, merged
from mealrec.serving.world import served_sequences

DAY = "2026-01-20"


def event(name: str, video: str = "v9", at: int = 1_768_900_000_000, user: str = "u1", kind: str = "like") -> Event:
    return Event.model_validate(
        {"event_id": name, "user_id": user, "video_id": video, "event_type": kind, "timestamp": at, "device": "ios"}
    )


def write_sequences(lake: Lake, rows: dict[str, list[tuple[int, int]]], through: str = "") -> None:
    """user -> [(item_index, timestamp_ms)]; nine videos v1..v9; through: as a backfill's day is written."""
    items = [
        {"video_id": f"v{n}", "item_index": n, "interactions": 1, "viewers": 1, "first_seen_ms": 0, "last_seen_ms": 0}
        for n in range(1, 10)
    ]
    lake.write(ITEMS, pa.Table.from_pylist(items, schema=SCHEMAS[ITEMS]), Provenance("sequences", "items"))
    table = [
        {
            "user_id": user,
            "item_index": [i for i, _ in steps],
            "timestamp_ms": [t for _, t in steps],
            "session_start": [True] * len(steps),
            "length": len(steps),
            "temporal_valid_start": 0,
            "temporal_test_start": 0,
            "bucket": 0,
        }
        for user, steps in rows.items()
    ]
    schema = SCHEMAS[SEQUENCES]
    made = Provenance("sequences", str(len(table)), through=through)
    lake.write(SEQUENCES, pa.Table.from_pylist(table, schema=schema), made)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "lake"))
    write_sequences(made, {"u1": [(1, 100), (2, 300)]})
    return made


def states_over(lake: Lake) -> ViewerStates:
    return ViewerStates(lake, lake.folder("landing", "events"), SessionizeConfig(), lambda: DAY)


def lines(lake: Lake) -> list[dict[str, object]]:
    path = lake.folder("landing", "events") / f"served-{DAY}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_history_is_the_table_and_what_was_accepted_since_by_time_and_each_video_once() -> None:
    nightly = [(100, "a"), (300, "b")]
    assert merged(nightly, [(400, "d"), (200, "c"), (50, "b")]) == ["a", "c", "b", "d"]
    assert merged([], []) == []


def test_an_accepted_event_is_in_the_journal_and_in_the_history(lake: Lake) -> None:
    states = states_over(lake)
    assert states.history("u1") == ["v1", "v2"] and states.history("nobody") == []
    assert states.accept([event("e1", "v3"), event("e2", "v4", kind="comment"), event("e3", "v5", user="new")]) == (
        3,
        0,
    )
    assert states.history("u1") == ["v1", "v2", "v3"], "a comment is no liking"
    assert states.history("new") == ["v5"]
    assert [line["event_id"] for line in lines(lake)] == ["e1", "e2", "e3"]
    assert set(lines(lake)[0]) <= set(EVENT_COLUMNS)


def test_an_event_sent_again_changes_nothing(lake: Lake) -> None:
    states = states_over(lake)
    assert states.accept([event("e1"), event("e1")]) == (1, 1)
    assert states.accept([event("e1", "v3"), event("e2", "v4")]) == (1, 1)
    states.close()
    again = states_over(lake)
    assert again.accept([event("e2")]) == (0, 1)
    assert [line["event_id"] for line in lines(lake)] == ["e1", "e2"]


def test_a_newer_version_of_the_table_takes_over_what_it_holds(lake: Lake) -> None:
    states = states_over(lake)
    states.accept([event("e1", "v3", 200), event("e2", "v4", 900)])
    assert states.history("u1") == ["v1", "v3", "v2", "v4"]
    write_sequences(lake, {"u1": [(1, 100), (3, 200), (2, 300)], "u2": [(7, 1)]})
    assert states.history("u2") == []
    states.refresh()
    assert states.history("u1") == ["v1", "v3", "v2", "v4"] and states.history("u2") == ["v7"]
    assert [p.name for p in states.folder.glob("sequences-*.sqlite")] == ["sequences-1.sqlite"]


def test_versions_of_a_backfill_are_passed_over(lake: Lake) -> None:
    states = states_over(lake)
    for day, video in (("2026-01-18", 7), ("2026-01-19", 8)):
        write_sequences(lake, {"u1": [(video, 100)]}, through=day)
        states.refresh()
        assert states.history("u1") == ["v1", "v2"]
    states.close()
    again = states_over(lake)
    assert again.history("u1") == ["v1", "v2"], "nor does a start go back to an earlier day"
    write_sequences(lake, {"u1": [(9, 100)]})
    again.refresh()
    assert again.history("u1") == ["v9"], "the backfill's last version holds every event file again"


def test_the_version_that_is_served_is_of_the_runs_own_event_files(lake: Lake) -> None:
    empty = Lake(f"{lake.root}-empty")
    assert served_sequences(empty, None) is None
    for day in ("2026-01-18", "2026-01-19"):
        write_sequences(lake, {"u1": [(7, 100)]}, through=day)
        write_sequences(empty, {"u1": [(7, 100)]}, through=day)
    served = [served_sequences(lake, through) for through in (None, "2026-01-18", "2026-01-19", "2026-01-20")]
    assert served == [0, 1, 2, 0]
    assert served_sequences(empty, None) == 1, "better than nothing"
    lake.at(SEQUENCES).restore(0)
    assert served_sequences(lake, None) == 3, "what was committed by other hands says nothing of event files"


def test_one_process_writes_a_journal_at_a_time(lake: Lake) -> None:
    states = states_over(lake)
    with pytest.raises(Busy, match="another server writes this journal"):
        Journal(states.journal.folder)
    states.close()
    Journal(states.journal.folder).close()


def test_a_torn_line_is_cut_and_a_foreign_line_is_passed_over(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    states = states_over(lake)
    states.accept([event("e1", "v3")])
    states.close()
    path = lake.folder("landing", "events") / f"served-{DAY}.jsonl"
    with path.open("a") as file:
        file.write('{"hand": "made"}\n{"event_id": "e2", "user_')
    again = states_over(lake)
    assert path.read_text().endswith('{"hand": "made"}\n')
    assert again.accept([event("e2", "v4")]) == (1, 0)
    assert again.history("u1") == ["v1", "v2", "v3", "v4"]
    assert "never acknowledged" in caplog.text and path.name in caplog.text


@pytest.mark.parametrize("damage", ["absent", "garbage", "behind"])
def test_the_index_is_made_again_from_the_journal(lake: Lake, damage: str) -> None:
    states = states_over(lake)
    states.accept([event("e1", "v3")])
    kept = (states.folder / "events.sqlite").read_bytes()
    states.accept([event("e2", "v4")])
    states.close()
    for path in states.folder.glob("events.sqlite*"):
        path.unlink()
    if damage != "absent":
        (states.folder / "events.sqlite").write_bytes(kept if damage == "behind" else b"no database at all" * 999)
    again = states_over(lake)
    assert again.history("u1") == ["v1", "v2", "v3", "v4"]
    assert again.accept([event("e1"), event("e2")]) == (0, 2)


def accepted_once(states: ViewerStates, path: Path) -> None:
    """A new event is in the history and in that file, and is not taken again."""
    assert states.accept([event("new", "v5")]) == (1, 0) and states.accept([event("new", "v5")]) == (0, 1)
    assert "v5" in states.history("u1")
    assert [json.loads(line)["event_id"] for line in path.read_text().splitlines()].count("new") == 1


def test_another_folder_for_the_journal_is_read_from_its_start(lake: Lake, tmp_path: Path) -> None:
    first = states_over(lake)
    first.accept([event(f"e{n}", "v3") for n in range(9)])
    first.close()
    other = ViewerStates(lake, tmp_path / "other", SessionizeConfig(), lambda: DAY)
    accepted_once(other, tmp_path / "other" / f"served-{DAY}.jsonl")
    assert other.history("u1") == ["v1", "v2", "v3", "v5"], "what the first journal acknowledged stays"
    other.close()
    again = states_over(lake)
    assert again.accept([event("e1"), event("new")]) == (0, 2)


def test_a_longer_file_of_the_same_day_in_another_folder_is_read_from_its_start(lake: Lake, tmp_path: Path) -> None:
    first = states_over(lake)
    first.accept([event("e0", "v3")])
    first.close()
    there = tmp_path / "other" / f"served-{DAY}.jsonl"
    there.parent.mkdir()
    rows = [event("o0", "v4"), *(event(f"o{n}", "v3") for n in range(1, 5))]
    there.write_text("".join(json.dumps(row.model_dump(exclude_none=True)) + "\n" for row in rows))
    other = ViewerStates(lake, there.parent, SessionizeConfig(), lambda: DAY)
    assert "v4" in other.history("u1")
    other.close()


@pytest.mark.parametrize("left", ["nothing", "less"])
def test_a_journal_file_that_was_archived_or_cut_is_read_from_its_start(lake: Lake, left: str) -> None:
    states = states_over(lake)
    states.accept([event(f"e{n}", "v3") for n in range(9)])
    states.close()
    path = lake.folder("landing", "events") / f"served-{DAY}.jsonl"
    if left == "less":
        path.write_text(json.dumps(event("e9", "v4").model_dump(exclude_none=True)) + "\n")
    else:
        path.rename(path.with_name("archived.jsonl"))
    again = states_over(lake)
    accepted_once(again, path)
    assert again.history("u1") == ["v1", "v2", "v3", *(["v4"] if left == "less" else []), "v5"]


CHILD = """
import sys
from tests.serving.test_journal import DAY, event, states_over
from mealrec.lake import Lake
states = states_over(Lake(sys.argv[1]))
for n in range(10**6):
    states.accept([event(f"e{n}", "v3", n, user=f"u{n % 7}")])
    print(f"e{n}", flush=True)
"""


def test_what_was_acknowledged_before_a_kill_9_is_there_afterwards(lake: Lake) -> None:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), lake.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().strip() for _ in range(25)]
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in child.stdout if line.endswith("\n")]
    again = states_over(lake)
    held = {str(line["event_id"]) for line in lines(lake)}
    assert set(acknowledged) <= held and len(held) == len(lines(lake))
    assert again.accept([event(name) for name in acknowledged]) == (0, len(acknowledged))
    assert again.history("u3") == ["v3"]


FULL_DISK = """
import resource, signal, sys
from tests.serving.test_journal import event, states_over
from mealrec.lake import Lake
states = states_over(Lake(sys.argv[1]))
states.accept([event("e1")])
size = (states.journal.folder / "served-2026-01-20.jsonl").stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
try:
    states.journal.append([event("e2"), event("e3")], "2026-01-20")
except OSError as error:
    print("refused", error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(states.accept([event("e2"), event("e4")]))
"""


def test_a_full_disk_refuses_the_events_and_leaves_the_journal_whole(lake: Lake) -> None:
    """The limit on file sizes stands for a full disk: the write stops half way, as there."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, lake.root], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["refused 27", "Accepted(accepted=2, duplicates=0)"]
    assert [line["event_id"] for line in lines(lake)] == ["e1", "e2", "e4"]


@contextlib.contextmanager
def descriptors(more: int) -> Iterator[None]:
    """This process may open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = os.open(os.devnull, os.O_RDONLY)
    os.close(next_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("more", [0, 1], ids=["the file", "its folder"])
def test_a_day_whose_file_cannot_be_opened_is_tried_again_and_nothing_leaks(tmp_path: Path, more: int) -> None:
    journal = Journal(tmp_path)
    journal.append([event("e1")], "2026-01-20")
    held = sorted(os.listdir("/proc/self/fd"))
    with descriptors(more):
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files"):
                journal.append([event("e2")], "2026-01-21")
    assert sorted(os.listdir("/proc/self/fd")) == held
    foreign = os.open(tmp_path / "foreign", os.O_RDWR | os.O_CREAT)  # would get the number of a closed descriptor
    for day in ("2026-01-20", "2026-01-21"):
        journal.append([event("e3")], day)
    os.fstat(foreign)
    os.close(foreign)
    journal.close()
    kept = {name: (tmp_path / name).read_text().count("event_id") for name in (*journal.files(), "foreign")}
    assert kept == {"served-2026-01-20.jsonl": 2, "served-2026-01-21.jsonl": 1, "foreign": 0}


def test_a_replica_nearby_reads_what_the_keeper_acknowledged(lake: Lake) -> None:
    states = states_over(lake)
    nearby = Nearby(states.folder)
    assert nearby.history("u1") == ["v1", "v2"] and nearby.history("nobody") == []
    for n, video in enumerate(("v3", "v4", "v5")):
        states.accept([event(f"e{n}", video, at=1_768_900_000_000 + n)])
        assert nearby.history("u1") == states.history("u1") and nearby.history("u1")[-1] == video


def test_a_replica_nearby_goes_on_to_files_that_were_exchanged(lake: Lake) -> None:
    states = states_over(lake)
    states.accept([event("e1", "v3")])
    nearby = Nearby(states.folder)
    write_sequences(lake, {"u1": [(1, 100), (2, 300), (9, 400)], "u2": [(7, 5)]})
    states.refresh()
    assert nearby.history("u2") == ["v7"] and nearby.history("u1") == ["v1", "v2", "v9", "v3"]
    states.close()
    (states.folder / "events.sqlite").write_bytes(b"no database at all" * 999)
    again = states_over(lake)  # made again from the journal
    again.accept([event("e2", "v4", user="u2")])
    assert nearby.history("u2") == ["v7", "v4"] and nearby.history("u1") == ["v1", "v2", "v9", "v3"]


def test_a_replica_nearby_says_so_when_the_files_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Nearby(tmp_path / "nowhere")
    with pytest.raises(sqlite3.OperationalError):
        Nearby(tmp_path)
    assert not list(tmp_path.iterdir()), "a reader makes no file"
