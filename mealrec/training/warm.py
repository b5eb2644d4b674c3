"""An earlier model as the beginning of a new run: videos keep their trained IDs, new ones get fresh ones.

Nothing held out leaks: under leave-one-out and under a temporal split what an earlier night trained on lies before what a later
night holds out, as long as logs only grow.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mealrec.data.arrays import ContentArrays
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training.loop import State
from mealrec.training.optimiser import optimiser
from mealrec.training.settings import TrainSettings

WEIGHTS, ORIGIN = "model.safetensors", "origin.json"
IDS = "ids.weight"  # the one tensor whose rows are videos
MAY_DIFFER = (
    "items",
    "dropout",
    "condition_dropout",
    "id_dropout",
)  # no other tensor's shape or meaning depends on them
SAMPLED = 64  # videos whose features are compared
ALIKE = 0.99  # cosine of features that the same encoder made of the same video


class NotAlike(ValueError):
    """The earlier model can't be carried over; the message says what differs."""


def carried(bundle: Path, data: Packed, settings: ModelSettings, seed: int) -> tuple[dict[str, Tensor], int]:
    """Weights of a model of `settings` over `data` that begin as the bundle's, and how many videos keep their ID. Cost: one
    pass over N x D. Raises NotAlike."""
    body: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    _check_settings(body["settings"], settings)
    known = {video: row for row, video in enumerate(json.loads((bundle / "items.json").read_text()), start=1)}
    rows = np.array([known.get(video, 0) for video in data.item_ids()], dtype=np.int64)
    _check_features(ContentArrays.open(bundle), data.content, rows)
    before = load_file(bundle / WEIGHTS)
    torch.manual_seed(seed)
    weights = MealRec(settings).state_dict()
    kept = torch.from_numpy(rows > 0)
    ids = weights[IDS].clone()
    ids[1:][kept] = before[IDS][torch.from_numpy(rows)[kept]]
    return {name: before[name] for name in weights} | {IDS: ids}, int(kept.sum())


def write(weights: dict[str, Tensor] | None, folder: Path, origin: dict[str, Any]) -> None:
    """Keep what a run begins with (None: fresh weights), so that one killed before its first checkpoint begins alike, whoever
    is champion by then. By rename: half of it is never found."""
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    if weights is not None:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, building / WEIGHTS)
    (building / ORIGIN).write_text(json.dumps(origin))
    building.rename(folder)


def origin_of(folder: Path) -> dict[str, Any]:
    """What `write` was told of where the weights come from."""
    found: dict[str, Any] = json.loads((folder / ORIGIN).read_text())
    return found


def begin(folder: Path, settings: ModelSettings, config: TrainSettings) -> State:
    """The state of a run that begins with what was written: no warm-up where there is another stage. Raises FileNotFoundError
    for a run that begins afresh."""
    model = MealRec(settings)
    model.load_state_dict(load_file(folder / WEIGHTS))
    state = State.fresh(model, config)
    if not settings.is_plain:
        state.progress.enter_next_stage()
        state.optimiser = optimiser(model, state.progress.stage, config)
    return state


def _check_settings(before: dict[str, Any], settings: ModelSettings) -> None:
    differ = [
        f"{name}: {before.get(name)!r} there, {value!r} here"
        for name, value in asdict(settings).items()
        if name not in MAY_DIFFER and before.get(name) != value
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
        cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)
        if np.median(cosine) < ALIKE:
            raise NotAlike(f"other {name} features of the same videos: another encoder")
