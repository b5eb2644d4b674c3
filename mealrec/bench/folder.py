"""Any dataset folder in a supported layout as a packed dataset, without Spark or a lake.

Chronological order, the first of each (viewer, video) pair and the split times follow the pipeline (spark_jobs/sequences.py).
Two things differ: videos are numbered by their ids, and equal times keep the file's order. Nobody is dropped for a short
history. Readers and the title encoder are imported where a folder is packed, so that one that was packed before opens with
torch and numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mealrec.data.packed import Packed, save_user_ids, training_part
from mealrec.data.split import Cuts, Protocol, leave_one_out, temporal

if TYPE_CHECKING:
    from mealrec.sources.landing import SourceError
    from mealrec.sources.public import Contents

Say = Callable[[str], None]
Ints = npt.NDArray[np.int64]


class Layout(NamedTuple):
    """A folder with a file like `mark` is of this layout; `needs` is all that it must hold, in words."""

    mark: str
    needs: str


LAYOUTS = {
    "ninerec": Layout("sequential_data.txt", "sequential_data.txt and *_item.csv"),
    "microlens": Layout("*_pairs.[ct]sv", "*_pairs.tsv or *_pairs.csv, and *_titles.csv"),
    "recbole": Layout("*.inter", "NAME.inter, and NAME.item for titles"),
    "packed": Layout("sequence.npy", "meta.json, sequence.npy, offsets.npy and the content arrays"),
}
FORMAT = 2  # of what is written here; a change of it packs anew
TOKENS = 8
VALID_SHARE = TEST_SHARE = 0.1  # of the time range, for the global temporal split
TITLES_AT_ONCE = 512


def open_folder(
    directory: Path, cache: Path, *, protocol: Protocol = "leave-one-out", tokens: int = TOKENS, say: Say = print
) -> Packed:
    """The packed dataset of a folder, built once into `cache` by one process and opened from there afterwards; one that is
    packed itself is opened as it is.

    Raises SourceError for a folder of no known layout, a malformed file (with its line), or a temporal split of a set
    without times; ValueError for a packed folder of the other protocol. Cost: the input files are hashed each time; once,
    titles take about 10 ms each on one core. Memory: the ids and about ten integers an interaction."""
    layout = layout_of(directory)
    if layout == "packed":
        return _same_protocol(Packed.open(directory), protocol)
    from mealrec.features.encoders.text import text_digest
    from mealrec.sources.public import fingerprint

    list_files, read = _reader(layout)
    name, files = directory.resolve().name, fingerprint(list_files(directory))
    key = json.dumps([files, tokens, protocol, text_digest(tokens), FORMAT], sort_keys=True)
    out = cache / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if out.is_dir():
        say(f"{name}: packed before, opening {out.name}")
        return Packed.open(out)
    contents = read(directory)
    log = _read(contents)
    cuts = _cuts(log, protocol, directory)  # a set that can't be split so leaves nothing behind
    building = cache / f"{out.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    _write_log(log, cuts, protocol, building)
    _write_content([contents.titles.get(video) for video in log.videos], tokens, building, say)
    source = {
        "name": name,
        "layout": layout,
        "files": files,
        "interactions": log.rows,
        "synthetic_time": log.when is None,
    }
    meta = {"protocol": protocol, "tokens": "title", "source": source}
    (building / "meta.json").write_text(json.dumps(meta, indent=1))
    building.rename(out)
    say(f"{name}: packed {len(log.users)} viewers, {len(log.sequence)} interactions, {len(log.videos)} videos")
    return Packed.open(out)


def data_digest(data: Packed) -> str:
    """Tells datasets of one name apart. Where the source's files are known, of those and of what is in the sequences, the same
    on every machine (features of titles differ in their last bits); else of everything packed. Cost: a pass over it."""
    files = data.meta.get("source", {}).get("files")
    names = (
        ["sequence.npy", "offsets.npy", "items.json"] if files else sorted(p.name for p in data.root.glob("*.np[yz]"))
    )
    held = hashlib.sha256(json.dumps([files, names], sort_keys=True).encode())
    for name in names:
        with (data.root / name).open("rb") as file:
            held.update(hashlib.file_digest(file, "sha256").digest())
    return held.hexdigest()[:16]


def layout_of(directory: Path) -> str:
    """Which layout a folder is in. Raises SourceError naming what is there and what each layout needs."""
    if not directory.is_dir():
        raise _wrong(f"{directory} is not a folder")
    fitting = [name for name, layout in LAYOUTS.items() if any(directory.glob(layout.mark))]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(sorted(p.name for p in directory.iterdir())[:10]) or "nothing"
    what = f"fits several layouts ({', '.join(fitting)})" if fitting else "is in no supported layout"
    needs = "; ".join(f"{name}: {layout.needs}" for name, layout in LAYOUTS.items())
    raise _wrong(f"{directory} {what}; found {there}. Layouts: {needs}")


def _wrong(message: str) -> SourceError:
    from mealrec.sources.landing import SourceError

    return SourceError(message)


def _same_protocol(data: Packed, protocol: Protocol) -> Packed:
    found = data.meta.get("protocol", "leave-one-out")
    if found != protocol:
        raise ValueError(f"{data.root} was packed for the {found} split, not for {protocol}: give the set's own folder")
    return data


def _reader(layout: str) -> tuple[Callable[[Path], list[Path]], Callable[[Path], Contents]]:
    """What lists a folder's files, and what reads them."""
    from mealrec.sources import microlens, ninerec, recbole

    return {
        "ninerec": (ninerec.files, ninerec.contents),
        "microlens": (microlens.files, microlens.contents),
        "recbole": (recbole.files, recbole.contents),
    }[layout]


class _Log(NamedTuple):
    """Sorted by viewer, then time, then file order; one row a (viewer, video). when: ms, None without a clock; rows: how many
    were read."""

    users: list[str]
    videos: list[str]
    sequence: Ints
    offsets: Ints
    when: Ints | None
    rows: int


def _read(contents: Contents) -> _Log:
    user_of: dict[str, int] = {}
    video_of: dict[str, int] = {video: n for n, video in enumerate(contents.titles)}
    viewers, items, times = array("q"), array("q"), array("q")
    timed = True
    for row in contents.rows:
        viewers.append(user_of.setdefault(row.user, len(user_of)))
        items.append(video_of.setdefault(row.video, len(video_of)))
        times.append(row.rank if row.timestamp_ms is None else row.timestamp_ms)
        timed = timed and row.timestamp_ms is not None
    if not viewers:
        raise _wrong(f"{contents.inputs[0]}: no interactions")
    users, user_place = _sorted_places(user_of)
    videos, video_place = _sorted_places(video_of)
    viewer, item = user_place[np.array(viewers)], video_place[np.array(items)] + 1
    when = np.array(times, dtype=np.int64)
    order = np.lexsort((when, viewer))  # stable: what is equal keeps the file's order
    viewer, item, when = viewer[order], item[order], when[order]
    _, first = np.unique(viewer * (len(videos) + 1) + item, return_index=True)
    kept = np.sort(first)
    counts = np.bincount(viewer[kept], minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return _Log(users, videos, item[kept], offsets, when[kept] if timed else None, len(times))


def _sorted_places(index: dict[str, int]) -> tuple[list[str], Ints]:
    """Names in order, and where in that order each number's name is."""
    names = sorted(index)
    place = np.zeros(len(names), dtype=np.int64)
    place[[index[name] for name in names]] = np.arange(len(names))
    return names, place


def _cuts(log: _Log, protocol: Protocol, directory: Path) -> Cuts:
    """Raises SourceError where the protocol leaves nobody to test."""
    cuts = leave_one_out(log.offsets) if protocol == "leave-one-out" else _temporal(log, directory)
    if not (cuts.test_at >= 0).any():
        raise _wrong(f"{directory}: a {protocol} split leaves no viewer a test video with a history before it")
    return cuts


def _temporal(log: _Log, directory: Path) -> Cuts:
    if log.when is None:
        raise _wrong(
            f"{directory}: the set has an order per viewer but no times, so no global temporal split; use leave-one-out"
        )
    low, high = int(log.when.min()), int(log.when.max())
    span = high - low
    starts = (high - round(span * (VALID_SHARE + TEST_SHARE)), high - round(span * TEST_SHARE))
    viewer = np.repeat(np.arange(len(log.users)), np.diff(log.offsets))
    before = [np.bincount(viewer[log.when < start], minlength=len(log.users)) for start in starts]
    return temporal(log.offsets, *before)


def _write_log(log: _Log, cuts: Cuts, protocol: Protocol, folder: Path) -> None:
    counts = np.bincount(training_part(log.sequence, log.offsets, cuts)[0], minlength=len(log.videos) + 1)
    np.save(folder / "sequence.npy", log.sequence)
    np.save(folder / "offsets.npy", log.offsets)
    save_user_ids(folder, log.users)
    np.save(folder / "train_count.npy", counts.astype(np.int64))
    if protocol == "temporal":
        np.save(folder / "cuts.npy", np.stack(cuts, 1))
    (folder / "items.json").write_text(json.dumps(log.videos))


def _write_content(titles: Sequence[str | None], tokens: int, folder: Path, say: Say) -> None:
    """Content arrays of titles alone (mealrec.data.arrays), as mapped files: memory is one chunk of encoded titles."""
    from mealrec.features.encoders import text

    named = [(item, title) for item, title in enumerate(titles, start=1) if title]
    n, width = len(titles) + 1, text.DIM if named else 0
    shapes: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
        "visual": ((n, tokens, width), np.float16),
        "audio": ((n, tokens, 0), np.float16),
        "text": ((n, width), np.float16),
        "position": ((n, tokens), np.float32),
        "times": ((n, tokens), np.int64),
        "frame_mask": ((n, tokens), np.bool_),
        "available": ((n, 3), np.bool_),
    }
    arrays = {name: _zeros(folder / f"{name}.npy", *shape) for name, shape in shapes.items()}
    arrays["times"][:] = -1
    encoder = text.MiniLM(tokens) if named else None
    for start in range(0, len(named), TITLES_AT_ONCE):
        assert encoder is not None
        part = named[start : start + TITLES_AT_ONCE]
        for (item, _), (pooled, subwords) in zip(part, encoder.encode([title for _, title in part]), strict=True):
            count = len(subwords)
            arrays["text"][item], arrays["visual"][item, :count] = pooled, subwords
            arrays["frame_mask"][item, :count] = True
            arrays["position"][item, :count] = np.arange(count) / max(count, 1)
            arrays["available"][item] = [count > 0, False, True]
        say(f"titles encoded: {start + len(part)} of {len(named)}")
    for mapped in arrays.values():
        if isinstance(mapped, np.memmap):
            mapped.flush()


def _zeros(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A mapped file of zeros; one with an empty axis can't be mapped and is written at once."""
    if 0 in shape:
        np.save(path, np.zeros(shape, dtype=dtype))
        return np.zeros(shape, dtype=dtype)
    zeros: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    return zeros
