"""Checkpoints as safetensors and JSON: no pickle, so a poisoned file can at worst be refused.

    <folder>/state.safetensors   model.*, teacher.*, best.*, the optimiser's moments optimiser.<index>.<name>, and, inside an
                                 epoch with TCD, epoch.pooled
    <folder>/state.json          progress, optimiser step counts, settings, format
The training order and every random stream are functions of (seed, epoch, step), so progress is the whole data position.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mealrec.durable import settle
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training.loop import State
from mealrec.training.optimiser import optimiser
from mealrec.training.progress import Progress
from mealrec.training.settings import TrainSettings

FORMAT = 4
TENSORS, STATE = "state.safetensors", "state.json"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another model."""


class Damaged(CheckpointError):
    """A checkpoint that is not whole; an older one may be."""


class Snapshot(NamedTuple):
    """A state as it was at a moment: nothing of it changes while training goes on, so a thread may write it."""

    tensors: dict[str, Tensor]
    body: dict[str, Any]


def save(state: State, folder: Path) -> None:
    """Write a checkpoint into `folder` (made when absent)."""
    write(snapshot(state), folder)


def snapshot(state: State) -> Snapshot:
    """A copy of all that a checkpoint holds. Memory: as much as the state's, until it is written."""
    tensors = _prefixed("model", state.model.state_dict()) | _prefixed("best", state.best)
    tensors |= _prefixed("teacher", state.teacher.state_dict())
    if state.pooled is not None:
        tensors["epoch.pooled"] = state.pooled
    moments: dict[str, Tensor] = {}
    counts: dict[str, float] = {}
    for index, values in state.optimiser.state_dict()["state"].items():
        counts[str(index)] = float(values["step"])
        moments |= {f"{index}.{name}": values[name] for name in ("exp_avg", "exp_avg_sq")}
    tensors |= _prefixed("optimiser", moments)
    body = {
        "format": FORMAT,
        "settings": asdict(state.model.settings),
        "progress": copy.deepcopy(state.progress.to_json()),
        "optimiser_steps": counts,
    }
    return Snapshot({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, body)


def write(held: Snapshot, folder: Path) -> None:
    """Write a snapshot into `folder` (made when absent); state.json last, by rename, so it marks a whole one, and each step is
    on the disk before the next, so it does after a power cut as well."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(held.tensors, folder / TENSORS)
    settle(folder / TENSORS)
    # the hash, because a file of another checkpoint fits by shape and must not slip in
    body = held.body | {"sha256": _sha256(folder / TENSORS)}
    temporary = folder / f"{STATE}.tmp"
    temporary.write_text(json.dumps(body))
    settle(temporary)
    temporary.replace(folder / STATE)
    settle(folder)
    settle(folder.parent)


def load(folder: Path, settings: ModelSettings, config: TrainSettings) -> State:
    """Rebuild the state. Raises Damaged when it is not whole, CheckpointError when it was made with other settings."""
    try:
        body: Any = json.loads((folder / STATE).read_text())
        found = _sha256(folder / TENSORS)
    except (OSError, ValueError) as error:
        raise Damaged(f"{folder}: not a whole checkpoint: {error}") from None
    if not isinstance(body, dict) or "format" not in body:
        raise Damaged(f"{folder}: not a whole checkpoint: {STATE} names no format")
    if body["format"] != FORMAT:
        raise CheckpointError(f"{folder}: format {body['format']!r}; this version reads {FORMAT}")
    if body.get("settings") != asdict(settings):
        raise CheckpointError(
            f"{folder}: made with other model settings: {_difference(body.get('settings'), settings)}"
        )
    if body.get("sha256") != found:
        raise Damaged(f"{folder}: not a whole checkpoint: {TENSORS} is not the file that {STATE} was written for")
    try:
        return _restored(body, load_file(folder / TENSORS), settings, config)
    except (SafetensorError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Damaged(f"{folder}: not a whole checkpoint: {error}") from None


def _restored(
    body: dict[str, Any], tensors: dict[str, Tensor], settings: ModelSettings, config: TrainSettings
) -> State:
    state = State.fresh(MealRec(settings), config)
    state.progress = Progress.from_json(body["progress"])
    state.model.load_state_dict(_part(tensors, "model"))
    state.teacher.load_state_dict(_part(tensors, "teacher"))
    state.best = _part(tensors, "best")
    state.optimiser = optimiser(state.model, state.progress.stage, config)
    _restore_moments(state, _part(tensors, "optimiser"), body["optimiser_steps"])
    state.pooled = tensors.get("epoch.pooled")
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _restore_moments(state: State, moments: dict[str, Tensor], counts: dict[str, float]) -> None:
    held = state.optimiser.state_dict()
    held["state"] = {
        int(index): {
            "step": torch.tensor(steps),
            "exp_avg": moments[f"{index}.exp_avg"],
            "exp_avg_sq": moments[f"{index}.exp_avg_sq"],
        }
        for index, steps in counts.items()
    }
    state.optimiser.load_state_dict(held)


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _difference(stored: Any, settings: ModelSettings) -> str:
    now = asdict(settings)
    if not isinstance(stored, dict):
        return f"{stored!r} there"
    return ", ".join(f"{k}: {stored.get(k)!r} there, {now[k]!r} here" for k in now if stored.get(k) != now[k])
