"""A full disk told in one line, whoever ran into it: Python, Arrow, Delta's own code or a Java program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

SIGNS = ("No space left on device", "Disk quota exceeded", "File too large")
OURS = re.compile(rf"(?:{'|'.join(SIGNS)}): [^\n]+ is not written and nothing of it is committed[^\n]*")
# how Spark names the folder that a task was writing
SPARKS = re.compile(r"writing rows to (?:file:)?(/\S+?)\.?(?=\s|$)")


def told(error: BaseException | None, place: str) -> str | None:
    """What to say of a full disk; None where neither the error nor its cause is one. place: for errors that name none."""
    while error is not None:
        text = str(error)
        if ours := OURS.search(text):
            return ours.group()
        for sign in SIGNS:
            if sign in text:
                named = SPARKS.search(text)
                place = named.group(1) if named else place
                return f"{sign}: {place} is not written and nothing of it is committed; make room and run it again"
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def named(place: str) -> Iterator[None]:
    """Makes a full disk, met in this block, an OSError that names the place."""
    try:
        yield
    except Exception as error:
        said = told(error, place)
        if said is None:
            raise
        raise OSError(said) from error
