"""Which file a path names, told without reading it: by whoever looks at it and by the decoder's child.

Not by its device: a child in a container may see that under another number.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

# what a machine, a mount or a limit of theirs fails with, whichever file is asked for
NO_FILES_FAULT = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOBUFS,
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
    }
)


def expect_files_fault(error: OSError) -> None:
    """Raises the error where it is no fault of a file's: descriptors or memory that ran out, a disk or a mount that does not
    answer."""
    if error.errno in NO_FILES_FAULT:
        raise error


def identity_of(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def open_regular(path: Path) -> BufferedReader:
    """Open to read, without waiting for a writer where the file has become a FIFO meanwhile. Raises OSError for what is no
    regular file."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return file


def change_since(before: Sequence[int], path: Path) -> str | None:
    """In words, where the file is not the one that it was; None where it is. Raises OSError where it can't be told."""
    try:
        now = identity_of(path.stat())
    except OSError as error:
        expect_files_fault(error)
        return f"it was there, then: {error.strerror}"
    return None if now == list(before) else f"bytes, time and inode were {list(before)}, then {now}"
