"""What the readers of public sets share: find files by pattern, write landing files, mark made-up times.

The sets give an order per viewer but, mostly, no clock. Times are then made from the rank: the n-th interaction of a viewer
happens n hours after 2026-01-05 00:00 UTC, so the order is kept, every interaction is a session of its own, and
source.json says `synthetic_time: true`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mealrec import full_disk
from mealrec.sources.checksums import sha256, verify
from mealrec.sources.landing import Landing, SourceError

EPOCH_MS = 1_767_571_200_000  # 2026-01-05T00:00:00Z
HOUR_MS = 3_600_000
FILES = 8
SOURCE = "source.json"


@dataclass(frozen=True)
class Interaction:
    """One row of a public set; timestamp_ms None where the set has no clock. rank is 0-based within the viewer."""

    user: str
    video: str
    rank: int
    timestamp_ms: int | None = None
    event_type: str = "interaction"
    watch_ms: int | None = None
    duration_ms: int | None = None


class Contents(NamedTuple):
    """A public set, before anything is written: interactions in file order (read as they are asked for), titles by video id
    (None: no title), the files they come from."""

    rows: Iterator[Interaction]
    titles: dict[str, str | None]
    inputs: list[Path]


def find(directory: Path, *patterns: str, required: bool = True) -> Path | None:
    """The one file of `directory` that matches a pattern. Raises SourceError naming what was expected and found."""
    if not directory.is_dir():
        raise SourceError(f"{directory} is not a folder")
    found = sorted({p for pattern in patterns for p in directory.glob(pattern) if p.is_file()})
    if len(found) > 1:
        raise SourceError(
            f"{directory}: several files match {' or '.join(patterns)}: {', '.join(p.name for p in found)}"
        )
    if not found:
        if required:
            there = ", ".join(sorted(p.name for p in directory.iterdir())[:10]) or "nothing"
            raise SourceError(f"{directory}: no file matches {' or '.join(patterns)}; found {there}")
        return None
    if found[0].stat().st_size == 0:
        raise SourceError(f"{found[0]} is empty")
    return found[0]


def integer(text: str, path: Path, line: int) -> int:
    """Raises SourceError naming file and line."""
    try:
        return int(text)
    except ValueError:
        raise SourceError(f"{path}:{line}: expected an integer, found {text!r}") from None


def sequence_rows(path: Path, *, separator: str | None) -> Iterator[Interaction]:
    """Rows of `user<sep>item item ...`, chronological; a viewer's later line goes on where the one before it ended. Raises
    SourceError naming file and line."""
    ranks: Counter[str] = Counter()
    with path.open(encoding="utf-8-sig") as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            user, _, rest = text.strip().partition(separator or " ")
            items = rest.split()
            integer(user, path, number)
            if not items:
                raise SourceError(f"{path}:{number}: a viewer without items; expected `user item item ...`")
            for item in items:
                yield Interaction(f"u{user}", f"v{integer(item, path, number)}", ranks[user])
                ranks[user] += 1


def land(
    landing: Landing, kind: str, rows: Iterable[Interaction], titles: dict[str, str | None], inputs: list[Path]
) -> dict[str, Any]:
    """Write event files and the catalogue; source.json last, so that it marks a whole landing. Memory: the video ids."""
    with full_disk.named(str(landing.root)):
        return _land(landing, kind, rows, titles, inputs)


def _land(
    landing: Landing, kind: str, rows: Iterable[Interaction], titles: dict[str, str | None], inputs: list[Path]
) -> dict[str, Any]:
    landing.events.mkdir(parents=True, exist_ok=True)
    (landing.root / SOURCE).unlink(missing_ok=True)
    videos: set[str] = set(titles)
    count, synthetic = 0, False
    first = last = None  # by the set's own clock
    with ExitStack() as stack:
        outs = [stack.enter_context((landing.events / f"events-{n}.jsonl").open("w")) for n in range(FILES)]
        for row in rows:
            synthetic = synthetic or row.timestamp_ms is None
            if row.timestamp_ms is not None:
                first = row.timestamp_ms if first is None else min(first, row.timestamp_ms)
                last = row.timestamp_ms if last is None else max(last, row.timestamp_ms)
            videos.add(row.video)
            outs[count % FILES].write(json.dumps(_event(row)) + "\n")
            count += 1
    if not count:
        raise SourceError(f"{inputs[0]}: no interactions")
    with (landing.root / "catalogue.jsonl").open("w", encoding="utf-8") as file:
        for video in sorted(videos):
            record = {"video_id": video, "uri": None, "title": titles.get(video)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    source = {
        "kind": kind,
        "interactions": count,
        "videos": len(videos),
        "synthetic_time": synthetic,
        "first_ms": first,
        "last_ms": last,
        "files": fingerprint(inputs),
    }
    half = landing.root / f"{SOURCE}.writing"
    half.write_text(json.dumps(source, indent=1))
    half.replace(landing.root / SOURCE)
    return source


def landed(landing: Landing, kind: str, inputs: list[Path]) -> dict[str, Any] | None:
    """What source.json says, if this landing was made from the same files; None otherwise. Raises SourceError where a file is
    not the one that a SHA256SUMS beside it names."""
    verify(inputs)
    path = landing.root / SOURCE
    if not path.is_file():
        return None
    source: dict[str, Any] = json.loads(path.read_text())
    return source if source["kind"] == kind and source["files"] == fingerprint(inputs) else None


def fingerprint(paths: list[Path]) -> dict[str, str]:
    """SHA-256 of each file by name."""
    return {path.name: sha256(path) for path in paths}


def _event(row: Interaction) -> dict[str, Any]:
    when = EPOCH_MS + row.rank * HOUR_MS if row.timestamp_ms is None else row.timestamp_ms
    return {
        "event_id": f"{row.user}-{row.rank}",
        "user_id": row.user,
        "video_id": row.video,
        "event_type": row.event_type,
        "timestamp": when,
        "watch_ms": row.watch_ms,
        "duration_ms": row.duration_ms,
        "device": None,
    }
