"""A catalogue straight from a folder of media files."""

from __future__ import annotations

import json
from pathlib import Path

from mealrec.sources.landing import Landing, SourceError


def catalogue_of_folder(videos: Path, out: Path) -> Landing:
    """Write out/catalogue.jsonl with every regular file below `videos`: video_id is its path relative to the folder, no
    title. Raises SourceError when there is no file."""
    if not videos.is_dir():
        raise SourceError(f"{videos} is not a folder")
    files = sorted(p for p in videos.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not files:
        raise SourceError(f"{videos} holds no files")
    out.mkdir(parents=True, exist_ok=True)
    with (out / "catalogue.jsonl").open("w", encoding="utf-8") as file:
        for path in files:
            record = {"video_id": str(path.relative_to(videos)), "uri": str(path.absolute()), "title": None}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return Landing(out)
