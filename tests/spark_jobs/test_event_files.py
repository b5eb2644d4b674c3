"""Event files as they come: several of a day in several formats, growing or going away while they are read, of many days."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mealrec.lake import Lake
from mealrec.schema import INTERACTIONS
from spark_jobs.engine import Engine, _key
from spark_jobs.job import readable
from tests.spark_jobs.test_nights import DAY, FIRST, MINUTE, TABLES, World, event, sorted_rows

EVENTS = [event(f"{n}", f"u{n % 3}", FIRST + n * MINUTE, video_id=f"v{n % 3 + 1}", device=None) for n in range(24)]


def interactions(lake: str) -> list[dict[str, Any]]:
    return sorted_rows(lake, INTERACTIONS, TABLES[INTERACTIONS])


@pytest.mark.spark
def test_many_files_of_a_day_in_every_format_are_the_table_that_one_file_is(spark: Any, tmp_path: Path) -> None:
    one, many = World(spark, tmp_path / "one"), World(spark, tmp_path / "many")
    one.file("events-2026-01-05.jsonl", list(EVENTS))
    one.night()
    folder = tmp_path / "many" / "events" / "dt=2026-01-05"
    folder.mkdir()
    as_lines = "".join(json.dumps(row) + "\n" for row in EVENTS[0:5])
    (folder / "a.jsonl").write_text(as_lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in EVENTS[5:10]).encode()))
    with (folder / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(EVENTS[0]))
        writer.writeheader()
        writer.writerows(EVENTS[10:15])
    (folder / "d.csv.gz").write_bytes(gzip.compress((folder / "c.csv").read_bytes().replace(b",like,", b",share,")))
    pq.write_table(pa.Table.from_pylist(EVENTS[15:]), folder / "e.parquet", row_group_size=2)
    night = many.night()
    # of d only its ids are copies of c's: another event type is another event
    assert (night["rows_in"], night["quarantined"]) == (29, {"duplicate_event": 5})
    assert interactions(many.config.lake) == interactions(one.config.lake)


@pytest.mark.spark
def test_a_file_that_grows_while_it_is_read_is_read_again_the_next_night(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(spark, tmp_path)
    world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST)])
    real = Engine.whole

    def growing(self: Engine) -> Any:
        world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST), event("b", "u1", FIRST + MINUTE)])
        made = real(self)
        world.file("events-2026-01-05.jsonl", [event(n, "u1", FIRST + MINUTE * ord(n)) for n in "abc"])
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "whole", growing)
        world.night()
    assert [row["event_id"] for row in interactions(world.config.lake)] == ["a", "b"]
    world.night()
    assert [row["event_id"] for row in interactions(world.config.lake)] == ["a", "b", "c"]
    world.same_as_a_rebuild()


@pytest.mark.spark
@pytest.mark.parametrize("when", ["before it is cut into parts", "before a task opens it"])
def test_a_file_that_goes_away_is_named_and_nothing_is_committed(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    world = World(spark, tmp_path)
    world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST)])
    world.file("events-2026-01-06.jsonl", [event("b", "u1", FIRST + DAY)])
    name = "whole" if when == "before it is cut into parts" else "_numbers"
    real = getattr(Engine, name)

    def without(self: Engine, *given: Any) -> Any:
        (tmp_path / "events" / "events-2026-01-06.jsonl").unlink(missing_ok=True)
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, name, without)
        with pytest.raises(Exception) as lost:
            world.night()
    said = readable(lost.value, spark)
    assert (
        said is not None and "events-2026-01-06.jsonl" in said and said.endswith("nothing was committed, run it again")
    )
    assert "\n" not in said and not Lake(world.config.lake).exists(INTERACTIONS)
    assert world.night()["rows_out"] == 1


def test_a_file_of_many_days_opens_no_more_files_than_a_process_may(tmp_path: Path) -> None:
    program = (
        "import os, resource, sys\n"
        "import pyarrow as pa\n"
        "from mealrec.lake import Lake\n"
        "from spark_jobs.outcome import file_schema\n"
        "from spark_jobs.parts import MOST_OPEN, Parts\n"
        "parts = Parts(Lake(sys.argv[1]), 'interactions')\n"
        "row = pa.Table.from_pylist([{'event_id': 'e'}], schema=file_schema('interactions'))\n"
        "parts.write({'event_date': 'warm'}, row)\n"
        "limit = len(os.listdir('/proc/self/fd')) + MOST_OPEN\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
        "for day in range(4 * MOST_OPEN): parts.write({'event_date': str(day)}, row)\n"
        "parts.close()\n"
        "print(len(parts.paths), sum(parts.paths.values()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "257 257\n", done.stderr


def test_a_key_for_viewers_that_is_absent_or_short_is_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _key(None) is None
    monkeypatch.setenv("VIEWER_KEY", "0123456789abcdef")
    assert _key("VIEWER_KEY") == b"0123456789abcdef"
    monkeypatch.setenv("VIEWER_KEY", "short of 16")
    for variable in ("VIEWER_KEY", "NO_SUCH_VARIABLE"):
        with pytest.raises(ValueError, match=f"viewer_key_variable='{variable}'.*at least 16 bytes") as refused:
            _key(variable)
        assert "short of 16" not in str(refused.value)
