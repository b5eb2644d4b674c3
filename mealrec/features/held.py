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
from mealrec.features.identity import expect_files_fault
from mealrec.features.limits import Limits, limits_of, noted_in, still_within
from mealrec.features.remote import NOT_ASKED
from mealrec.features.rows import Wanted, bucket_of, file_hash, reads_file, source_of, title_hash
from mealrec.lake import Lake
from mealrec.schema import FEATURES

COLUMNS = (
    "video_id",
    "encoder_digest",
    "content_hash",
    "source_stat",
    "absent",
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
    decoded_frames: int
    limits: Limits  # that its video was within


def rows_in(lake: Lake, files: Iterable[str]) -> dict[str, HeldRow]:
    """Rows of these files by video id. Reads no arrays; memory is a small tuple a video."""
    filesystem, root = lake.filesystem(FEATURES)
    rows: dict[str, HeldRow] = {}
    for file in files:
        with filesystem.open_input_file(f"{root}/{file}") as source:
            table = pq.read_table(source, columns=list(COLUMNS))
        limits = noted_in(table.schema.metadata)
        found: list[dict[str, Any]] = table.to_pylist()
        for row in found:
            video, absent = row.pop("video_id"), tuple(row.pop("absent") or ())
            rows[video] = HeldRow(file=file, absent=absent, limits=limits, **row)
    return rows


def unchanged(
    held: Mapping[str, HeldRow],
    catalogue: Iterable[Wanted],
    paths: Mapping[str, Path],
    config: FeaturesConfig,
    encoders: str,
) -> set[str]:
    """Ids whose row still stands: same encoders, same title, no limit lowered, and the same file by uri, size and change time,
    else by content. An object that can't be asked for is taken to be as it was: a store that is away for some takes no features
    along.

    paths: where each video's local file lies. Only files of which one of the three is another are read. Raises OSError for what
    is no file's fault.
    """
    kept, limits = set[str](), limits_of(config)
    for one in catalogue:
        row = held.get(one.video_id)
        if row is None or row.encoder_digest != encoders:
            continue
        bytes_hash, _, titled = row.content_hash.partition(":")
        in_place = f"bucket={bucket_of(one.video_id, config.buckets)}" == row.file.partition("/")[0]
        if not in_place or titled != title_hash(one.title) or bool(bytes_hash) != reads_file(one, config):
            continue
        if not bytes_hash or (
            one.stat
            and still_within(row.limits, limits)
            and (_is_same_source(one, row) or _is_as_before(one, paths, bytes_hash))
        ):
            kept.add(one.video_id)
    return kept


def moved(held: Mapping[str, HeldRow], catalogue: Iterable[Wanted], kept: set[str]) -> dict[str, str]:
    """By video id where the files of rows that stand by content alone are to be looked for: else they are read every time."""
    standing = ((held[one.video_id], one) for one in catalogue if one.video_id in kept)
    return {
        one.video_id: source_of(one)
        for row, one in standing
        if not row.content_hash.startswith(":") and not _is_same_source(one, row)
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


def _is_same_source(one: Wanted, row: HeldRow) -> bool:
    if one.stat == NOT_ASKED:
        return row.source_stat.split(":", 2)[2:] == [one.uri]
    return source_of(one) == row.source_stat


def _is_as_before(one: Wanted, paths: Mapping[str, Path], bytes_hash: str) -> bool:
    """By content; an object of another time is fetched again with its features, not for its hash alone. A file that went away
    or may not be read is not as before: who decodes it says why."""
    try:
        return one.video_id in paths and file_hash(paths[one.video_id]) == bytes_hash
    except OSError as error:
        expect_files_fault(error)
        return False


def figures(rows: Iterable[HeldRow]) -> dict[str, Any]:
    """Frames in the rows, and how many videos lack a modality; a title without a video lacks the others by nature."""
    frames, absent = 0, Counter[str]()
    for row in rows:
        frames += row.decoded_frames
        if row.decoded_frames:
            absent.update(entry.partition(":")[0] for entry in row.absent)
    return {"frames": frames, "absent": dict(sorted(absent.items()))}
