"""Build a packed dataset from pinned versions of `sequences`, `items` and `features`, streamed batch by batch.

Memory: the id-to-index map (N entries) and one record batch; token arrays go straight to mapped files.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from mealrec.data import means
from mealrec.data.arrays import ContentArrays
from mealrec.data.packed import save_user_ids, training_part
from mealrec.data.recency import recent_popularity
from mealrec.data.split import Protocol, leave_one_out, temporal
from mealrec.durable import publish
from mealrec.lake import Lake
from mealrec.schema import FEATURES, ITEMS, SEQUENCES

FORM = 4  # of a packed dataset: one of another form is not opened
TokenKind = Literal["frames", "title"]
Say = Callable[[str], None]
DEAD_AFTER_S = 86_400


def pack(
    lake: Lake,
    versions: dict[str, int],
    out: Path,
    *,
    tokens: TokenKind,
    frames: int,
    say: Say,
    protocol: Protocol = "leave-one-out",
) -> Path:
    """Write the dataset into `out`: in a folder of its own and by rename at the end, so that a killed run leaves nothing that
    looks whole, and of two runs at once the first gives the dataset.

    versions pins each table; `frames` is F: frames kept a video, or title tokens where `tokens` is "title"; protocol says
    what trains and what is held out.
    """
    if out.is_dir():
        say(f"packed dataset {out.name} is there already")
        return out
    building = out.with_name(f"{out.name}.building-{uuid4().hex}")
    building.mkdir(parents=True)
    try:
        _sweep(out, building / "dead")
        said = _build(lake, versions, building, tokens, frames, protocol)
        publish(building, out)
    except OSError:
        if not out.is_dir():
            raise
        said = f"packed dataset {out.name} was made by another run meanwhile"
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(said)
    return out


def _sweep(out: Path, dead: Path) -> None:
    """Remove what runs that were killed long ago had built. Away with the name first: one that wakes up then fails."""
    for path in out.parent.iterdir():
        if not path.name.startswith(f"{out.name}.building"):
            continue
        with suppress(FileNotFoundError):  # another run was faster
            if path.stat().st_mtime < time.time() - DEAD_AFTER_S:
                path.rename(dead)
                shutil.rmtree(dead)


def _build(
    lake: Lake, versions: dict[str, int], building: Path, tokens: TokenKind, frames: int, protocol: Protocol
) -> str:
    """What was packed, in words."""
    ids = _item_ids(lake, versions[ITEMS])
    (building / "items.json").write_text(json.dumps(ids))
    viewers, interactions = _sequences(lake, versions[SEQUENCES], building, len(ids), protocol)
    described = _features(lake, versions[FEATURES], building, ids, tokens, frames)
    means.write(ContentArrays.open(building))
    meta = {"protocol": protocol, "tokens": tokens, "versions": versions, "lake": lake.root}
    (building / "meta.json").write_text(json.dumps(meta))
    return f"packed {viewers} viewers, {interactions} interactions, {len(ids)} videos ({described} with content)"


def _item_ids(lake: Lake, version: int) -> list[str]:
    items = lake.read(ITEMS, version, columns=["item_index", "video_id"]).sort_by("item_index")
    index = items["item_index"].to_numpy()
    if not np.array_equal(index, np.arange(1, len(index) + 1)):
        raise ValueError(f"items version {version}: item_index is not dense from 1 to {len(index)}")
    ids: list[str] = items["video_id"].to_pylist()
    return ids


def _sequences(lake: Lake, version: int, folder: Path, items: int, protocol: Protocol) -> tuple[int, int]:
    """Flat sequences ordered by user id, so that the files' own order does not matter."""
    columns = ["user_id", "item_index", "temporal_valid_start", "temporal_test_start", "timestamp_ms"]
    table = lake.read(SEQUENCES, version, columns=columns).sort_by("user_id").combine_chunks()
    lists = table["item_index"].combine_chunks()
    sequence = pc.list_flatten(lists).to_numpy().astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())]).astype(np.int64)
    if len(sequence) and (sequence.min() < 1 or sequence.max() > items):
        raise ValueError(f"sequences version {version}: item_index outside 1..{items}; pin matching versions")
    np.save(folder / "sequence.npy", sequence)
    np.save(folder / "offsets.npy", offsets)
    save_user_ids(folder, table["user_id"].to_pylist())
    cuts = leave_one_out(offsets)
    if protocol == "temporal":
        starts = (table[name].to_numpy().astype(np.int64) for name in columns[2:4])
        cuts = temporal(offsets, *starts)
        np.save(folder / "cuts.npy", np.stack(cuts, 1))
    counts = np.bincount(training_part(sequence, offsets, cuts)[0], minlength=items + 1).astype(np.int64)
    np.save(folder / "train_count.npy", counts)
    times = pc.list_flatten(table["timestamp_ms"].combine_chunks()).to_numpy().astype(np.int64)
    np.save(folder / "recent.npy", recent_popularity(sequence, times, items))
    return len(offsets) - 1, len(sequence)


def _features(lake: Lake, version: int, folder: Path, ids: list[str], tokens: TokenKind, frames: int) -> int:
    index = {video: i for i, video in enumerate(ids, start=1)}
    columns = _columns(tokens)
    widths = _widths(lake, version, columns)
    n = len(ids) + 1
    shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        "visual": ((n, frames, widths["visual"]), np.float16),
        "audio": ((n, frames, widths["audio"]), np.float16),
        "text": ((n, widths["text"]), np.float16),
        "position": ((n, frames), np.float32),
        "times": ((n, frames), np.int64),
        "frame_mask": ((n, frames), np.bool_),
        "available": ((n, 3), np.bool_),
    }
    arrays = {k: _create(folder / f"{k}.npy", shape, dtype) for k, (shape, dtype) in shapes.items()}
    arrays["times"][:] = -1
    described = 0
    for row in _rows(lake, version, [*columns.values(), "token_times_ms", "duration_ms", "video_id"]):
        at = index.get(row["video_id"])
        if at is not None:  # a video nobody may be recommended yet is not in the index
            _fill(arrays, at, row, columns, tokens)
            described += 1
    for array in arrays.values():
        if isinstance(array, np.memmap):
            array.flush()
    return described


def _columns(tokens: TokenKind) -> dict[str, str]:
    """Which columns play the token sequence: frames with sound, or the title's sub-words."""
    text = {"text": "text", "text_dim": "text_dim"}
    if tokens == "title":
        return text | {"visual": "text_tokens", "count": "text_token_count", "visual_dim": "text_dim"}
    return text | {
        "visual": "visual",
        "count": "visual_frames",
        "visual_dim": "visual_dim",
        "audio": "audio",
        "audio_slots": "audio_slots",
        "audio_dim": "audio_dim",
    }


def _widths(lake: Lake, version: int, columns: dict[str, str]) -> dict[str, int]:
    """The encoder widths present in the table; 0 for a modality that no row has."""
    widths = {"visual": 0, "audio": 0, "text": 0}
    for row in _rows(lake, version, [columns[k] for k in columns if k.endswith("_dim")]):
        for name in widths:
            widths[name] = max(widths[name], int(row.get(columns.get(f"{name}_dim", "")) or 0))
    return widths


def _fill(
    arrays: dict[str, npt.NDArray[Any]], at: int, row: dict[str, Any], columns: dict[str, str], tokens: TokenKind
) -> None:
    frames = arrays["frame_mask"].shape[1]
    visual = _decode(row, columns["visual"], columns["visual_dim"])
    audio = _decode(row, columns["audio"], columns["audio_dim"]) if "audio" in columns else None
    text = _decode(row, columns["text"], columns["text_dim"])
    count = min(max(0 if part is None else len(part) for part in (visual, audio)), frames)
    if visual is not None:
        arrays["visual"][at, : len(visual[:frames])] = visual[:frames]
    if audio is not None:
        arrays["audio"][at, : len(audio[:frames])] = audio[:frames]
    if text is not None:
        arrays["text"][at] = text[0]
    arrays["available"][at] = [visual is not None, audio is not None, text is not None]
    arrays["frame_mask"][at, :count] = True
    times = np.array((row["token_times_ms"] or [])[:count], dtype=np.int64)
    if tokens == "frames" and len(times) == count and count:
        arrays["times"][at, :count] = times
        arrays["position"][at, :count] = np.clip(times / max(int(row["duration_ms"] or 0), 1), 0, 1)
    else:  # titles have an order but no clock
        arrays["position"][at, :count] = np.arange(count) / max(count, 1)


def _decode(row: dict[str, Any], column: str, dim: str) -> npt.NDArray[np.float16] | None:
    """float16 bytes as [tokens, width]; None where the modality is absent."""
    data, width = row[column], int(row[dim] or 0)
    if not data or not width:
        return None
    return np.frombuffer(data, dtype=np.float16).reshape(-1, width)


def _rows(lake: Lake, version: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    dataset = lake.dataset(FEATURES, version)
    for batch in dataset.to_batches(columns=sorted(set(columns)), batch_size=256):
        yield from batch.to_pylist()


def _create(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A zero-filled mapped array; one with an empty axis can't be mapped and is written at once."""
    if 0 in shape:
        empty = np.zeros(shape, dtype=dtype)
        np.save(path, empty)
        return empty
    array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    return array
