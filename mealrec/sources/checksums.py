"""SHA-256 of whole files: a SHA256SUMS beside a set, as coreutils' sha256sum writes it, is checked before anything is read."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from mealrec.sources.landing import SourceError

log = logging.getLogger("mealrec.ingest")

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(paths: Iterable[Path]) -> None:
    """Check each file that the SHA256SUMS in its folder names; one that it does not name is said and read all the same.

    Raises SourceError naming the file, the sum that was expected and the one that was found, or the line that is none.
    Cost: one read of the files, where there is a SHA256SUMS."""
    for path in paths:
        sums = path.parent / SUMS
        if not sums.is_file():
            continue
        expected = read(sums).get(path.name)
        if expected is None:
            log.warning("%s is not named in %s: not checked", path, sums)
            continue
        found = sha256(path)
        if found != expected:
            raise SourceError(f"{path}: SHA-256 is {found}, {sums} expects {expected}: get the file again")
        log.info("%s: SHA-256 is as %s says", path.name, sums)


def read(sums: Path) -> dict[str, str]:
    """Sum of each file name. Raises SourceError naming the line that is none."""
    out = {}
    for number, text in enumerate(sums.read_text(encoding="utf-8").splitlines(), start=1):
        found = LINE.fullmatch(text)
        if text.strip() and found is None:
            raise SourceError(
                f"{sums}:{number}: expected 64 hexadecimal digits, two spaces and a file name: {text[:100]!r}"
            )
        if found is not None:
            out[found.group(2).removeprefix("./")] = found.group(1).lower()
    return out
