"""A folder that belongs to one process and is cleared away once that process is gone, however it went."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

LOCK = ".lock"
_held: list[int] = []  # locks live as long as the process


def own_folder(root: Path) -> Path:
    """A new folder below root for this process; folders of processes that have died are deleted."""
    for other in root.iterdir():
        if other.is_dir() and _is_abandoned(other):
            shutil.rmtree(other, ignore_errors=True)
    own = root / f"{os.getpid()}-{os.urandom(4).hex()}"
    own.mkdir()
    lock = os.open(own / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _held.append(lock)
    return own


def _is_abandoned(folder: Path) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # being made just now
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
