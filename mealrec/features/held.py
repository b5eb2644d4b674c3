"""What the tables hold of videos: whose rows still stand, and in which files they lie."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mealrec.config import FeaturesConfig
from mealrec.features.rows import Wanted, bucket_of, file_hash, reads_file, source_of, title_hash
from mealrec.lake import Lake
from mealrec.schema import FEATURES

COLUMNS = (
    "video_id",
    "encoder_digest",
    "content_hash",
    "source_stat",
    "absent",
    "declared_frames",
    "decoded_frames",
)


@dataclass(frozen=True)
class HeldRow:
    """A row without its arrays, and the file (relative to the table's root) that it lies in."""

    file: str
    encoder_digest: str
    content_hash: str
    source_stat: str
    absent: tuple[str, ...]
    declared_frames: int
    decoded_frames: int


def rows_in(lake: Lake, files: Iterable[str]) -> dict[str, HeldRow]:
    """Rows of these files by video id. Reads no arrays; memory is a small tuple a video."""
    filesystem, root = lake.filesystem(FEATURES)
    rows: dict[str, HeldRow] = {}
    for file in files:
        with filesystem.open_input_file(f"{root}/{file}") as source:
            found: list[dict[str, Any]] = pq.read_table(source, columns=list(COLUMNS)).to_pylist()
        for row in found:
            video, absent = row.pop("video_id"), tuple(row.pop("absent") or ())
            rows[video] = HeldRow(file=file, absent=absent, **row)
    return rows


def unchanged(
    held: Mapping[str, HeldRow],
    catalogue: Iterable[Wanted],
    paths: Mapping[str, Path],
    config: FeaturesConfig,
    encoders: str,
) -> set[str]:
    """Ids whose row still stands: same encoders, same title, and the same file by uri, size and change time, else by content.

    paths: where each video's local file lies. Only files of which one of the three is another are read.
    """
    kept = set()
    for one in catalogue:
        row = held.get(one.video_id)
        if row is None or row.encoder_digest != encoders:
            continue
        bytes_hash, _, titled = row.content_hash.partition(":")
        in_place = f"bucket={bucket_of(one.video_id, config.buckets)}" == row.file.partition("/")[0]
        if not in_place or titled != title_hash(one.title) or bool(bytes_hash) != reads_file(one, config):
            continue
        if not bytes_hash or (
            one.stat and (source_of(one) == row.source_stat or _is_as_before(one, paths, bytes_hash))
        ):
            kept.add(one.video_id)
    return kept


def moved(held: Mapping[str, HeldRow], catalogue: Iterable[Wanted], kept: set[str]) -> dict[str, str]:
    """By video id where the files of rows that stand by content alone are to be looked for: else they are read every time."""
    standing = ((held[one.video_id], one) for one in catalogue if one.video_id in kept)
    return {
        one.video_id: source_of(one)
        for row, one in standing
        if not row.content_hash.startswith(":") and row.source_stat != source_of(one)
    }


def rejected_as_before(
    rejected: Iterable[dict[str, Any]], catalogue: Iterable[Wanted], tried: str
) -> dict[str, dict[str, Any]]:
    """Rows of `quarantine` by video id whose video would be rejected again: the same catalogue row, file by size and change
    time (absent then and absent now), encoders and limits; and a reason that lies in the video alone."""
    wanted = {one.video_id: one for one in catalogue}
    found = {}
    for row in rejected:
        then, one = json.loads(row["payload"]), wanted.get(row["key"])
        if one is not None and then == asdict(one) | {"tried_as": tried}:
            found[one.video_id] = row
    return found


def may_pass(row: Mapping[str, Any]) -> bool:
    """Whether the reason of a row of `quarantine` does not lie in the video alone: it has to be tried again."""
    return "tried_as" not in json.loads(row["payload"])


def _is_as_before(one: Wanted, paths: Mapping[str, Path], bytes_hash: str) -> bool:
    """By content; an object of another time is fetched again with its features, not for its hash alone. A file that went away
    or may not be read is not as before: who decodes it says why."""
    try:
        return one.video_id in paths and file_hash(paths[one.video_id]) == bytes_hash
    except OSError:
        return False


def figures(rows: Iterable[HeldRow]) -> dict[str, Any]:
    """Frames in the rows, and how many videos lack a modality; a title without a video lacks the others by nature."""
    frames, absent = 0, Counter[str]()
    for row in rows:
        frames += row.decoded_frames
        if row.declared_frames:
            absent.update(entry.partition(":")[0] for entry in row.absent)
    return {"frames": frames, "absent": dict(sorted(absent.items()))}
