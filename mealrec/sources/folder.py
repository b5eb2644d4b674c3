"""A catalogue straight from a folder of media files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mealrec import full_disk
from mealrec.config import digest
from mealrec.sources.landing import Landing, SourceError


def catalogue_of_folder(videos: Path, out: Path, leave_out: Sequence[Path] = ()) -> Landing:
    """A landing whose files are those below `videos`: video_id and uri are a file's path relative to the folder, no title. The
    catalogue lies below `out`, in a place of this folder's own.

    What lies below a path of `leave_out` is not taken, where that is a folder below `videos`; hidden files are not either. A
    link that leads elsewhere, and a name that is not UTF-8, are for the stage to refuse by name. Raises SourceError when there
    is no file."""
    if not videos.is_dir():
        raise SourceError(f"{videos} is not a folder")
    root = videos.resolve()
    others = [other for path in leave_out if (other := path.resolve()).is_relative_to(root)]
    if root in others:
        raise SourceError(f"{videos} is the lake itself: put its tables elsewhere (--lake)")
    found = (p for p in root.rglob("*") if p.is_file() and not p.name.startswith("."))
    files = sorted(p for p in found if not any(p.is_relative_to(other) for other in others))
    if not files:
        raise SourceError(f"{videos} holds no files")
    catalogue = out / digest(os.fsencode(root).hex()) / "catalogue.jsonl"
    catalogue.parent.mkdir(parents=True, exist_ok=True)
    half = catalogue.with_name(f"{catalogue.name}.writing")
    with full_disk.named(str(half)), half.open("w", encoding="utf-8", errors="surrogateescape") as file:
        for path in files:
            name = str(path.relative_to(root))
            file.write(json.dumps({"video_id": name, "uri": name, "title": None}, ensure_ascii=False) + "\n")
    half.replace(catalogue)
    return Landing(root, listed_in=catalogue)
