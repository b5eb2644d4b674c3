"""A disk of a few pages, to be full at any moment: a real file system of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096
BALLAST = "ballast"


class Disk:
    """A mounted folder. `leave` fills it up to so many free pages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leave(self, pages: int | None) -> None:
        """None: all that is there."""
        (self.folder / BALLAST).unlink(missing_ok=True)
        if pages is not None:
            free = os.statvfs(self.folder).f_bavail
            (self.folder / BALLAST).write_bytes(bytes(PAGE * max(free - pages, 0)))

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(self.folder)], check=True)

    def files(self) -> list[str]:
        found = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        return sorted(str(p) for p in found if p.name != BALLAST)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Disk]:
    """Skips the test where a file system can't be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command, so no small disk")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
