"""AdamW with the specification's groups: which parameters a stage trains, at which rate, decayed or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from mealrec.model.mealrec import MealRec
from mealrec.training.progress import Stage

if TYPE_CHECKING:
    from mealrec.config import TrainConfig

ID_PARTS = ("ids.", "backbone.")


def trainable(model: MealRec, stage: Stage) -> dict[str, nn.Parameter]:
    """Parameters by name that a stage trains: S0 IDs and backbone, S1 everything else but NPD, S2 all."""
    chosen = {}
    for name, parameter in model.named_parameters():
        is_id, is_npd = name.startswith(ID_PARTS), name.startswith("npd.")
        wanted = {"warmup": is_id, "content": not is_id and not is_npd, "joint": True}[stage]
        parameter.requires_grad_(wanted)
        if wanted:
            chosen[name] = parameter
    return chosen


def optimiser(model: MealRec, stage: Stage, config: TrainConfig) -> torch.optim.AdamW:
    """A fresh optimiser for a stage; matrices decay, IDs, biases, norms and learned vectors do not."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable(model, stage).items():
        fast = stage == "warmup" or name.startswith("ids.")
        rate = config.lr if fast else config.content_lr
        decay = config.weight_decay if parameter.dim() == 2 and "ids." not in name and "position" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()], betas=(0.9, 0.98)
    )
