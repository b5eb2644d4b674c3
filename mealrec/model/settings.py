"""Shapes and switches of the model as a plain dataclass, so that the numeric core needs torch alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Everything that decides the parameters' shapes and the forward pass.

    items: N; frames: F (frames, or title tokens); visual_dim, audio_dim, text_dim: widths of the frozen features, 0 where
    the catalogue has none of them.
    """

    items: int
    frames: int
    visual_dim: int
    audio_dim: int
    text_dim: int
    width: int = 64
    layers: int = 2
    heads: int = 2
    max_history: int = 20
    dropout: float = 0.2
    tcd: bool = True
    npd: bool = True
    diffusion_steps: int = 32
    refine_steps: int = 1
    condition_dropout: float = 0.1
    id_dropout: float = 0.1
    temperature: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
