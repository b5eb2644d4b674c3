"""Optimisation settings as a plain dataclass, so that training runs where only torch and numpy are installed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Matmul = Literal["highest", "high", "medium"]  # torch's float32 matmul precisions


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What the loop reads; the configuration's `train` section has the same fields, defaults and more (workers)."""

    warmup_epochs: int = 30
    joint_epochs: int = 20
    batch_size: int = 256
    lr: float = 1e-3
    joint_lr: float = 3e-4
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    patience: int = 6
    tcd_weight: float = 0.1
    npd_weight: float = 0.5
    id_weight: float = 0.5
    reverse_weight: float = 0.5
    candidate_dropout: float = 0.15
    ema_decay: float = 0.999
    average: bool = True
    negatives: int | None = None
    validation_viewers: int = 100_000
    checkpoint_steps: int = 500
    matmul: Matmul = "medium"
