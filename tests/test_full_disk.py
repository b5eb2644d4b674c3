"""The lake on a disk that is full: the table and the reason are named, readers see what they saw, and room is all it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mealrec.config import RunConfig
from mealrec.features.extract import write_part
from mealrec.lake import Lake, Provenance
from mealrec.schema import FEATURES, INPUTS, PROFILES, SCHEMAS
from mealrec.sources.landing import Landing
from mealrec.sources.ninerec import read_ninerec
from mealrec.stages.profile import acceptances, profile
from tests.small_disk import Disk, mounted
from tests.sources.test_readers import ninerec
from tests.stages.test_profile import World

MADE = Provenance("test", "d")
PART = "bucket=0/part-1.parquet"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", "1m") as disk:
        yield disk


def rows(*names: str) -> pa.Table:
    table = [dict.fromkeys(SCHEMAS[INPUTS].names) | {"kind": "video", "name": name} for name in names]
    return pa.Table.from_pylist(table, schema=SCHEMAS[INPUTS])


def write(lake: Lake) -> Any:
    return lake.write(INPUTS, rows("new"), MADE)


def append(lake: Lake) -> Any:
    return lake.append_at(INPUTS, lake.version(INPUTS) or 0, rows("new"), MADE)


def commit(lake: Lake) -> Any:
    files = lake.files(INPUTS)
    return lake.commit_files(INPUTS, [], MADE, mode="append", removes=files)


def make(lake: Lake) -> Any:
    return lake.commit_files(FEATURES, [PART], MADE, mode="append")


def claim(lake: Lake) -> Any:
    return lake.claim("test", "run", INPUTS)


@pytest.mark.parametrize(
    ("change", "table", "files", "names"),
    [
        (write, INPUTS, 2, ["new"]),
        (append, INPUTS, 2, ["new", "old", "older"]),
        (commit, INPUTS, 1, []),
        (make, FEATURES, 1, ["old", "older"]),
        (claim, "_claims", 1, ["old", "older"]),
    ],
)
def test_a_commit_without_room_says_where_and_nothing_of_it_is_seen(
    disk: Disk, change: Callable[[Lake], Any], table: str, files: int, names: list[str]
) -> None:
    """With a page more of room each time, until it fits; `files` it writes, so often at least it fails."""
    lake = Lake(str(disk.folder / "lake"))
    lake.write(INPUTS, rows("old", "older"), MADE)
    write_part(lake, FEATURES, PART, [])
    before, words = lake.read(INPUTS), []
    while True:
        disk.leave(len(words))
        try:
            change(lake)
        except OSError as error:
            words.append(str(error))
        else:
            break
        assert lake.version(INPUTS) == 0 and not lake.exists(FEATURES) and lake.read(INPUTS) == before
    assert len(words) >= files
    for said in words:
        assert said.startswith(f"No space left on device: {lake.root}/{table}") and "\n" not in said
    assert sorted(lake.read(INPUTS)["name"].to_pylist()) == names
    assert not [name for name in disk.files() if "_delta_log" in name and not name.endswith(".json")]


def test_a_part_without_room_is_named_and_leaves_nothing(disk: Disk) -> None:
    lake = Lake(str(disk.folder))
    disk.leave(0)
    with pytest.raises(OSError, match=rf"No space left on device: {disk.folder}/features/{PART} is not written"):
        write_part(lake, FEATURES, PART, [])
    assert disk.files() == []


def test_a_read_only_lake_is_named_and_read_as_before(disk: Disk) -> None:
    lake = Lake(str(disk.folder))
    lake.write(INPUTS, rows("old"), MADE)
    disk.read_only()
    for change in (write, append, commit, claim):
        with pytest.raises(
            OSError, match=rf"^Read-only file system: {disk.folder}/\w+ is not written.*make it writable"
        ):
            change(lake)
    assert lake.read(INPUTS)["name"].to_pylist() == ["old"]


def test_a_public_set_without_room_is_named_and_read_whole_once_there_is(disk: Disk, tmp_path: Path) -> None:
    """A page more each time: the events, the catalogue and what marks them as whole."""
    folder, landing, failed = ninerec(tmp_path / "in"), Landing(disk.folder), 0
    while True:
        disk.leave(failed)
        try:
            source, there = read_ninerec(folder, landing)
        except OSError as error:
            assert str(error).startswith(f"No space left on device: {disk.folder} is not written")
            failed += 1
        else:
            break
    assert failed >= 3 and not there
    assert source == read_ninerec(folder, Landing(tmp_path / "straight"))[0]
    assert read_ninerec(folder, landing)[1], "the second time there is nothing to do"


def test_a_profile_whose_page_has_no_room_is_not_accepted_and_not_measured_again(disk: Disk, tmp_path: Path) -> None:
    config = RunConfig(lake=str(tmp_path / "lake"), work=str(disk.folder))
    world = World(Lake(config.lake, config.work), config)
    world.day(0)
    world.rest()
    disk.leave(1)
    with pytest.raises(OSError, match=rf"No space left on device: {disk.folder}/profile/profile.html is not written"):
        profile(config)
    assert acceptances(world.lake) == (-1, [])
    disk.leave(None)
    assert profile(config).version == 0 and world.lake.version(PROFILES) == 0
    assert [entry.profile for entry in acceptances(world.lake)[1]] == [0]
