"""What a power cut must not take back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mealrec.durable import publish


def test_a_folder_gets_its_name_once_what_is_in_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, out = tmp_path / "building", tmp_path / "out"
    building.mkdir()
    for name in ("a", "b"):
        (building / name).write_text(name)
    fsync, done = os.fsync, list[tuple[str, bool]]()

    def settled(fd: int) -> None:
        done.append((Path(os.readlink(f"/proc/self/fd/{fd}")).name, out.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", settled)
    publish(building, out)
    assert sorted(done[:2]) == [("a", False), ("b", False)]
    assert done[2:] == [("building", False), (tmp_path.name, True)]
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
