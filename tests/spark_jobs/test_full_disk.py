"""A disk that is full at any write of Spark's jobs: named, nothing half there, and the same tables once there is room."""

from __future__ import annotations

import logging
import os
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mealrec.config import override
from mealrec.lake import Lake
from mealrec.schema import INPUTS, INTERACTIONS, ITEMS, QUARANTINE, SEQUENCES
from mealrec.stages import spark_submit
from mealrec.stages.sessionize import sessionize
from mealrec.stages.summary import EngineLost
from spark_jobs.job import readable
from spark_jobs.outcome import file_schema
from spark_jobs.parts import Parts
from tests.small_disk import Disk, mounted
from tests.spark_jobs.test_nights import DAY, FIRST, TABLES, World, event, sorted_rows
from tests.spark_jobs.test_submit import write_landing

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", "2m") as disk:
        yield disk


@pytest.fixture
def world(spark: Any, disk: Disk, tmp_path: Path) -> World:
    """A day of two rows, committed on the small disk."""
    made = World(spark, tmp_path / "world", user_core=1, item_core=1, buckets=1)
    made.config = override(made.config, [f"lake={disk.folder / 'lake'}", "spark.shuffle_partitions=1"])
    made.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST), "broken"])
    made.night()
    return made


def until_there_is_room(spark: Any, disk: Disk, job: Callable[[], Any], unharmed: Callable[[], Any]) -> list[str]:
    """The job again and again with a page more of room each time, until it fits: what it said where it did not."""
    before, said = unharmed(), list[str]()
    while True:
        disk.leave(len(said))
        try:
            job()
        except AssertionError:
            raise
        except Exception as error:
            said.append(readable(error, spark) or repr(error))
        else:
            return said
        assert unharmed() == before and len(said) < 100


def places(said: list[str], lake: Lake) -> set[str]:
    """What could not be written, without the file names."""
    start, end = f"No space left on device: {lake.root}/", " is not written and nothing of it is committed"
    assert [one for one in said if not one.startswith(start) or end not in one] == []
    return {one.removeprefix(start).partition(end)[0].partition("=")[0] for one in said}


def test_a_night_without_room_at_any_of_its_writes(spark: Any, world: World, disk: Disk) -> None:
    lake = Lake(world.config.lake)
    world.file("events-2026-01-06.jsonl", [event("b", "u1", FIRST + DAY), "broken too"])

    def night() -> None:
        there = [name for name in disk.files() if "/part-" in name]
        try:
            world.night()
        except Exception as error:
            if "/part-" in (readable(error, spark) or ""):
                assert [name for name in disk.files() if "/part-" in name] == there, "a task that fails keeps no part"
            raise

    said = until_there_is_room(spark, disk, night, lambda: sorted_rows(lake.root, INTERACTIONS, TABLES[INTERACTIONS]))
    parts = {f"{INTERACTIONS}/event_date", f"{QUARANTINE}/stage"}
    assert places(said, lake) == {"_claims", INPUTS, QUARANTINE, INTERACTIONS, *parts}
    assert lake.version(INTERACTIONS) == 1
    world.same_as_a_rebuild()


def test_a_part_that_ends_at_any_byte_is_named_and_taken_back(tmp_path: Path) -> None:
    """Files that may not be larger: a full disk that is not bound to pages. What is written last is the footer."""
    lake = Lake(str(tmp_path))
    rows = pa.Table.from_pylist([{"event_id": f"e{n}"} for n in range(2000)], schema=file_schema(INTERACTIONS))

    def written() -> Parts:
        with Parts(lake, INTERACTIONS) as parts:
            parts.write({"event_date": "2026-01-05"}, rows)
        return parts

    (path,) = written().paths
    whole = (tmp_path / INTERACTIONS / path).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (0, 3, whole // 2, whole - 500, whole - 1, whole):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            if most < whole:
                with pytest.raises(
                    OSError, match=r"^File too large: .*/event_date=2026-01-05/part-\w+.parquet is not written"
                ):
                    written()
            else:
                written()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_sequences_without_room_at_any_of_its_writes(spark: Any, world: World, disk: Disk) -> None:
    lake = Lake(world.config.lake)

    def parts(of: str) -> list[str]:
        return [name for name in disk.files() if f"/{of}/" in name and "/part-" in name]

    def sequences() -> None:
        there = {table: parts(table) for table in (ITEMS, SEQUENCES)}
        try:
            world.sequences()
        except Exception as error:
            for table in there:
                if re.search(f"/{table}/.*part-", readable(error, spark) or ""):
                    assert parts(table) == there[table], "a write that fails keeps no part"
            raise

    said = until_there_is_room(spark, disk, sequences, lambda: lake.exists(SEQUENCES))
    assert places(said, lake) >= {f"{SEQUENCES}/bucket", ITEMS, SEQUENCES}
    assert (lake.read(SEQUENCES).num_rows, lake.read(ITEMS).num_rows) == (1, 3)


def test_a_job_without_room_to_shuffle_or_to_say_so_ends_with_the_reason(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_landing(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    disk.leave(5)
    with pytest.raises(EngineLost, match=rf"No space left on device: .*spark.local.dir.* {disk.folder}/mealrec-"):
        sessionize(config)
    assert not Lake(config.lake).exists(INTERACTIONS)
    assert disk.files() == []


def test_a_job_whose_log_has_no_room_goes_on(tmp_path: Path) -> None:
    """More words than a pipe holds: a job stands still once nobody takes them."""
    (tmp_path / "job.log").symlink_to("/dev/full")
    program = "for n in range(20_000): print('word', n)"
    log = logging.getLogger("test")
    code, last = spark_submit._run([sys.executable, "-c", program], dict(os.environ), tmp_path / "job.log", log, 60)
    assert (code, last.splitlines()[-1]) == (0, "word 19999")
