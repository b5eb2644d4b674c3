"""A disk that takes no more, full or read-only, told in one line whoever ran into it: Python, Arrow, Delta or Java."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

SIGNS = {
    "No space left on device": "make room",
    "Disk quota exceeded": "make room",
    "File too large": "make room",
    "Read-only file system": "make it writable",
}
OURS = re.compile(rf"(?:{'|'.join(SIGNS)}): [^\n]+ is not written and nothing of it is committed[^\n]*")


def told(error: BaseException | None, place: str) -> str | None:
    """What to say of such a disk; None where neither the error nor its cause is of one. place: for errors that name none."""
    while error is not None:
        text = str(error)
        if ours := OURS.search(text):
            return ours.group()
        for sign, what in SIGNS.items():
            if sign in text:
                return f"{sign}: {place} is not written and nothing of it is committed; {what} and run it again"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def named(place: str) -> Iterator[None]:
    """Makes of a disk that takes no more, met in this block, an OSError that names the place."""
    try:
        yield
    except Exception as error:
        said = told(error, place)
        if said is None:
            raise
        raise OSError(said) from error
