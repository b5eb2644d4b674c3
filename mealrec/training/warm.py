"""An earlier model as the beginning of a new run: videos keep their trained IDs, new ones get fresh ones, and every weight is
drawn towards that of a fresh model (Ash and Adams, On Warm-Starting Neural Network Training, 2020): one that was trained long
ends a new day worse than a fresh one does (measured: benchmarks/LOG.md).

Nothing held out leaks: under leave-one-out and under a temporal split what an earlier night trained on lies before what a later
night holds out, as long as histories only grow and both nights hold out by the same protocol; another one is refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mealrec.data.arrays import ContentArrays
from mealrec.data.packed import Packed
from mealrec.data.split import Protocol
from mealrec.durable import publish
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training.loop import State
from mealrec.training.settings import TrainSettings

WEIGHTS, ORIGIN = "model.safetensors", "origin.json"
IDS = "ids.weight"  # the one tensor whose rows are videos
# no other tensor's shape or meaning depends on these
MAY_DIFFER = ("items", "dropout", "condition_dropout", "id_dropout")
SAMPLED = 64  # videos whose features are compared
APART = 0.1  # of their norm: an encoder repeats itself to about 1e-3 (float16, other threads)


class NotAlike(ValueError):
    """The earlier model can't be carried over; the message says what differs."""


class Earlier(NamedTuple):
    """A trained model with the videos and the content that it knows; item_index i is videos[i - 1]. protocol: by which what it
    was not trained on was held out."""

    model: MealRec
    videos: Sequence[str]
    content: ContentArrays
    protocol: Protocol


def carried(
    earlier: Earlier, data: Packed, settings: ModelSettings, seed: int, keep: float
) -> tuple[dict[str, Tensor], int]:
    """Weights of a model of `settings` over `data` that begin as `keep` times the earlier one's and 1 - keep times a fresh
    one's of this seed, and how many videos keep their ID. Cost: one pass over N x D. Raises NotAlike."""
    _check_settings(earlier.model.settings, settings)
    here = data.meta.get("protocol", "leave-one-out")
    if earlier.protocol != here:
        raise NotAlike(f"trained under another protocol ({earlier.protocol} there, {here} here)")
    known = {video: row for row, video in enumerate(earlier.videos, start=1)}
    rows = np.array([known.get(video, 0) for video in data.item_ids()], dtype=np.int64)
    _check_features(earlier.content, data.content, rows)
    before = earlier.model.state_dict()
    torch.manual_seed(seed)
    fresh = MealRec(settings).state_dict()
    kept, ids = torch.from_numpy(rows > 0), fresh[IDS].clone()
    ids[1:][kept] = before[IDS][torch.from_numpy(rows)[kept]]
    weights = {name: torch.lerp(fresh[name], old, keep) for name, old in (before | {IDS: ids}).items()}
    return weights, int(kept.sum())


def write(weights: dict[str, Tensor] | None, folder: Path, origin: dict[str, Any]) -> None:
    """Keep what a run begins with (None: fresh weights), so that one killed before its first checkpoint begins alike, whoever
    is champion by then. By rename: half of it is never found."""
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    if weights is not None:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, building / WEIGHTS)
    (building / ORIGIN).write_text(json.dumps(origin))
    publish(building, folder)


def origin_of(folder: Path) -> dict[str, Any]:
    """What `write` was told of where the weights come from."""
    found: dict[str, Any] = json.loads((folder / ORIGIN).read_text())
    return found


def begin(folder: Path, settings: ModelSettings, config: TrainSettings) -> State:
    """The state of a run that begins with what was written. It goes through both stages: where a day brings many interactions
    and new videos the joint stage alone learns them too slowly (measured: benchmarks/LOG.md). Raises FileNotFoundError for a
    run that begins afresh."""
    model = MealRec(settings)
    model.load_state_dict(load_file(folder / WEIGHTS))
    return State.fresh(model, config)


def _check_settings(before: ModelSettings, now: ModelSettings) -> None:
    there, here = asdict(before), asdict(now)
    differ = [
        f"{name}: {there[name]!r} there, {here[name]!r} here"
        for name in here
        if name not in MAY_DIFFER and there[name] != here[name]
    ]
    if differ:
        raise NotAlike(f"other settings ({', '.join(differ)})")


def _check_features(before: ContentArrays, now: ContentArrays, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    """Weights that read one encoder's features can't read another's of the same width. Raises NotAlike when most of a sample of
    the videos that both know look different."""
    both = np.flatnonzero(rows)
    if len(both) == 0:
        raise NotAlike("no video in common")
    chosen = both[np.linspace(0, len(both) - 1, min(SAMPLED, len(both))).astype(np.int64)]
    for at, name in enumerate(("visual", "audio", "text")):
        there, here = rows[chosen], chosen + 1
        shared = before.arrays["available"][there, at] & now.arrays["available"][here, at]
        if not shared.any():
            continue
        a, b = (
            np.asarray(x[y[shared]], dtype=np.float64).reshape(int(shared.sum()), -1)
            for x, y in ((before.arrays[name], there), (now.arrays[name], here))
        )
        apart = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(a, axis=1), 1e-12)
        if np.median(apart) > APART:
            raise NotAlike(f"other {name} features of the same videos: another encoder")
