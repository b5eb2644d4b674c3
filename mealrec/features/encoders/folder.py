"""A model's folder: safetensors and JSON, from a hub by name or given; all that decides its output is in its digest."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from mealrec.config import digest
from mealrec.features.encoders.weights import WeightsError

PATTERNS = ("*.json", "*.safetensors")  # nothing else is fetched or read: no pickle, no code


def model_folder(name: str) -> Path:
    """A local folder as it is; else a hub's model by name, or name@revision, fetched into the hub's cache if need be."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(PATTERNS)))
    except Exception as error:  # the hub's client raises many kinds, its transport's among them
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{name!r} is neither a folder nor a model that the hub gives: {reason}") from error


def weights_file(folder: Path) -> Path:
    """The folder's one weights file. Raises WeightsError when there are none or several."""
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise WeightsError(f"{folder}: one *.safetensors is needed, found {names}; pickled weights are not read")
    return found[0]


def settings(folder: Path, name: str) -> dict[str, Any]:
    """One of the folder's JSON files. Raises WeightsError when it is absent or no object."""
    try:
        held = json.loads((folder / name).read_text())
    except FileNotFoundError:
        raise WeightsError(f"{folder}: {name} is missing") from None
    except ValueError as error:
        raise WeightsError(f"{folder / name}: {error}") from None
    if not isinstance(held, dict):
        raise WeightsError(f"{folder / name}: an object was expected")
    return held


def folder_digest(folder: Path) -> str:
    """Of the weights' and the settings' bytes. Cost: one read of the files for each of their change times in a process."""
    files = [weights_file(folder), *sorted(folder.glob("*.json"))]
    return digest([[p.name, _sha256(p, p.stat().st_size, p.stat().st_mtime_ns)] for p in files])


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
