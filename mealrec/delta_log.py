"""What a Delta table's log tells beyond what deltalake reads from it."""

from __future__ import annotations

import re
from typing import Any

import pyarrow.fs as pafs
from deltalake import DeltaTable

LOGGED = re.compile(r"(\d{20})\.(json|checkpoint\..+)")


def entries(uri: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The newest `limit` commits (None: all), newest first, each with its `version`. Cost: grows with the commits read.

    deltalake numbers them downwards from the version that it had loaded, though it lists what was committed since as well: then
    each has another's number, and it is asked again."""
    while True:
        held = DeltaTable(uri)
        found: list[dict[str, Any]] = held.history(limit)
        if DeltaTable(uri).version() == held.version():
            return found


def openable(filesystem: pafs.FileSystem, root: str) -> list[int]:
    """Versions that can be opened, oldest first: those whose log goes back to the first one, or to a checkpoint, without a gap.
    [] without a table."""
    listed = filesystem.get_file_info(pafs.FileSelector(f"{root}/_delta_log", allow_not_found=True))
    logged = [found for info in listed if (found := LOGGED.match(info.base_name))]
    checkpoints = {int(found[1]) for found in logged if found[2] != "json"}
    commits = {int(found[1]) for found in logged if found[2] == "json"}
    opened: list[int] = []
    for version in sorted(commits | checkpoints):
        follows = version == 0 or (opened and opened[-1] == version - 1)
        if version in checkpoints or follows:
            opened.append(version)
    return opened
