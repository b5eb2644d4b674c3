"""What the page shows of the lake: viewers, titles, frames. Look-ups by id on pinned versions; nothing grows with the viewers.

Cost of a look-up: the row groups of one table that may hold the ids. Titles come with the catalogue file, read once a change.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.compute as pc

from mealrec.schema import FEATURES, SEQUENCES
from mealrec.serving.world import World
from mealrec.sources.landing import locate

MOST_VIEWERS = 50
Stamp = tuple[Path, int, int]  # of the catalogue file: path, size, mtime_ns


@dataclass
class Gallery:
    """Viewers and videos of the lake that is served."""

    world: World
    _titles: tuple[Stamp | None, dict[str, str]] = field(default=(None, {}))

    def viewers(self, starts_with: str, limit: int) -> list[tuple[str, int]]:
        """(user_id, length of the history) of up to `limit` viewers whose id begins so, in table order."""
        version = self.world.sequences()
        if version is None:
            return []
        dataset = self.world.lake.dataset(SEQUENCES, version)
        wanted = pc.starts_with(pc.field("user_id"), starts_with) if starts_with else None
        found = dataset.scanner(columns=["user_id", "length"], filter=wanted).head(min(limit, MOST_VIEWERS))
        return [(row["user_id"], row["length"]) for row in found.to_pylist()]

    def titles(self, videos: Sequence[str]) -> dict[str, str]:
        """Titles of those that have one."""
        landing = locate(self.world.config)
        path = landing.catalogue_file()
        found = path.stat()
        stamp = path, found.st_size, found.st_mtime_ns
        held, titles = self._titles
        if held != stamp:
            rows = landing.catalogue().select(["video_id", "title"]).to_pylist()
            titles = {row["video_id"]: row["title"] for row in rows if row["title"]}
            self._titles = stamp, titles
        return {video: titles[video] for video in videos if video in titles}

    def pictures(self, videos: Sequence[str]) -> dict[str, list[str]]:
        """One data URI a frame, for videos that have frames and whose thumbnails were kept."""
        if not self.world.lake.exists(FEATURES):
            return {}
        rows = self.world.lake.read(
            FEATURES, columns=["video_id", "thumbnails"], filters=pc.field("video_id").isin(list(videos))
        )
        return {row["video_id"]: [_uri(jpeg) for jpeg in row["thumbnails"] or []] for row in rows.to_pylist()}


def _uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
