"""The one place where packaged weights are opened: by known SHA-256, tensors only, never code."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar


class WeightsError(RuntimeError):
    """Packaged weights are missing or not the ones that were checked."""


def package_file(package: str, name: str) -> Path:
    """A file inside an installed package, without importing it. Raises WeightsError when it is absent."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise WeightsError(f"package {package!r} with {name} is not installed: run `make setup`")


def checked(path: Path, sha256: str) -> Path:
    """The path again. Raises WeightsError when the file's digest is another."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(f"{path.name}: SHA-256 {found}, expected {sha256}; the package was changed")
    return path


def load_tensors(path: Path, sha256: str) -> Any:
    """Tensors (and numpy scalars) of a checked file; anything else in it is refused by torch."""
    # one of the packaged files carries its class counts as numpy integers, under numpy 1's module name
    scalars: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, type(np.dtype("i8"))]
    with torch.serialization.safe_globals(scalars):
        return torch.load(checked(path, sha256), weights_only=True, map_location="cpu")


def device() -> torch.device:
    """Where encoders run: a GPU when this process sees one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
