"""The lake on a disk that is full: the table and the reason are named, readers see what they saw, and room is all it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mealrec.features.extract import write_part
from mealrec.lake import Lake, Provenance
from mealrec.schema import FEATURES, INPUTS, SCHEMAS
from tests.small_disk import Disk, mounted

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
