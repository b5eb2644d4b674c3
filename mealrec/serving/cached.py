"""What a bundle holds of its videos in item mode: vectors in memory, tokens mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from mealrec.model.settings import ModelSettings

TOKENS = ("refined", "key", "redundancy")


@dataclass(frozen=True)
class Cached:
    """described and plain [N + 1, D], salience [N + 1, F]; tokens: refined and key [N + 1, F, D], redundancy [N + 1, F],
    float16, mapped read-only."""

    described: Tensor
    plain: Tensor
    salience: Tensor
    tokens: dict[str, npt.NDArray[Any]]

    @classmethod
    def open(cls, directory: Path, settings: ModelSettings) -> Cached:
        """Raises ValueError where shapes do not fit the settings."""
        vectors = load_file(directory / "catalogue.safetensors")
        tokens = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in TOKENS}
        rows, frames, width = settings.items + 1, settings.frames, settings.width
        vector, token = (rows, width), (rows, frames, width)
        expected: dict[str, tuple[int, ...]] = {"described": vector, "plain": vector, "salience": (rows, frames)}
        expected |= {"refined": token, "key": token, "redundancy": (rows, frames)}
        found = {name: tuple(part.shape) for name, part in (*vectors.items(), *tokens.items())}
        odd = sorted(name for name in expected if found.get(name) != expected[name])
        if odd:
            wrong = ", ".join(f"{name} {found.get(name)}, not {expected[name]}" for name in odd)
            raise ValueError(f"cached vectors of {settings.items} videos: {wrong}")
        return cls(vectors["described"], vectors["plain"], vectors["salience"], tokens)

    def take(self, name: str, rows: Tensor) -> Tensor:
        """Tokens `name` of some videos as float32."""
        return torch.from_numpy(np.ascontiguousarray(self.tokens[name][rows.numpy()])).float()
