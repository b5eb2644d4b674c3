"""What has been written is on the disk, and stays there through a power cut, before anything says that it is whole."""

from __future__ import annotations

import os
from pathlib import Path


def settle(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(building: Path, out: Path) -> None:
    """Rename a folder of files, whose content is on the disk by then."""
    for path in building.iterdir():
        settle(path)
    settle(building)
    building.rename(out)
    settle(out.parent)
