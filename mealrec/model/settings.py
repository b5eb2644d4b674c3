"""Shapes and switches of the model as a plain dataclass, so that the numeric core needs torch alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

BackboneName = Literal["sasrec", "gru4rec", "bert4rec", "nextitnet"]
Pooling = Literal["diffusion", "attention", "mean"]
Personal = Literal["denoiser", "pooling"]
Start = Literal["content", "noise"]
Prediction = Literal["clean", "noise"]
Npd = Literal["blind", "told", "state", "augment", "off"]


# far beyond any model that trains; a damaged or hostile file must not make us reserve memory
LIMITS = {
    "items": (0, 2**31),
    "frames": (1, 4096),
    "visual_dim": (0, 2**16),
    "audio_dim": (0, 2**16),
    "text_dim": (0, 2**16),
    "width": (1, 2**14),
    "layers": (1, 128),
    "heads": (1, 2**10),
    "max_history": (1, 2**14),
    "diffusion_steps": (1, 2**14),
    "refine_steps": (1, 2**14),
    "denoiser_layers": (1, 128),
}


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Everything that decides the parameters' shapes and the forward pass.

    items: N; frames: F (frames, or title tokens); visual_dim, audio_dim, text_dim: widths of the frozen features, 0 where
    the catalogue has none of them.

    content: False is the ID-only model. tcd: how a video's tokens become one vector: refined by `diffusion` (TCD), by the
    same network without noise (`attention`, A8), or their plain mean (A1). personal: where the viewer's collaborative
    signal enters TCD: the `denoiser` (one run for each viewer and position) or only the `pooling` (one run for each
    video). guidance (A2), collaborative (A3): False takes the part away. refine_from, predict: A9. npd: `blind` (the
    denoiser stands before the backbone and never sees the level), `told` (A5), `state` (it stands behind the backbone, as
    model.md 2.8 has it), `augment` (the same corruptions, no denoiser: A6), `off` (A4).
    """

    items: int
    frames: int
    visual_dim: int
    audio_dim: int
    text_dim: int
    width: int = 64
    backbone: BackboneName = "sasrec"
    layers: int = 2
    heads: int = 2
    max_history: int = 20
    dropout: float = 0.2
    content: bool = True
    tcd: Pooling = "diffusion"
    personal: Personal = "denoiser"
    guidance: bool = True
    collaborative: bool = True
    diffusion_steps: int = 32
    refine_steps: int = 1
    refine_from: Start = "content"
    predict: Prediction = "clean"
    denoiser_layers: int = 2
    npd: Npd = "blind"
    condition_dropout: float = 0.1
    id_dropout: float = 0.1
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError naming the field and the valid values."""
        choices = {
            "backbone": BackboneName,
            "tcd": Pooling,
            "personal": Personal,
            "refine_from": Start,
            "predict": Prediction,
            "npd": Npd,
        }
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name}={getattr(self, name)!r}; valid: {', '.join(get_args(kind))}")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not least <= value <= most:
                raise ValueError(f"{name}={value!r}; valid: whole numbers from {least} to {most}")

    @property
    def is_plain(self) -> bool:
        """Without diffusion, denoising and corruption: whole after the warm-up, with no joint stage."""
        return self.tcd == "mean" and self.npd == "off"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
