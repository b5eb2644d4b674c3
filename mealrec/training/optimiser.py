"""AdamW with the specification's groups: which parameters a stage trains, at which rate, decayed or not."""

from __future__ import annotations

import torch
from torch import nn

from mealrec.model.mealrec import MealRec
from mealrec.training.progress import Stage
from mealrec.training.settings import TrainSettings

ID_PARTS = ("ids.", "backbone.")
NPD_RATE = 3.0  # of lr: the denoiser has the joint stage alone to learn in (benchmarks/LOG.md)
DIFFUSION_PARTS = ("guidance.", "condition.", "tcd.", "salience.", "npd.", "null_user")


def trainable(model: MealRec, stage: Stage) -> dict[str, nn.Parameter]:
    """Parameters by name that a stage trains: S0 all but TCD and NPD (the ID-only model: IDs and backbone), S1 all."""
    chosen = {}
    for name, parameter in model.named_parameters():
        if model.settings.content:
            wanted = stage == "joint" or not name.startswith(DIFFUSION_PARTS)
        else:
            wanted = name.startswith((*ID_PARTS, "null_id", "backwards", *(("npd.",) if stage == "joint" else ())))
        parameter.requires_grad_(wanted)
        if wanted:
            chosen[name] = parameter
    return chosen


def optimiser(model: MealRec, stage: Stage, config: TrainSettings) -> torch.optim.AdamW:
    """A fresh optimiser for a stage; matrices decay, IDs, biases, norms and learned vectors do not. What a stage trains for the
    first time learns at lr, what was trained before at joint_lr."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainable(model, stage).items():
        is_new = stage == "warmup" or name.startswith(DIFFUSION_PARTS)
        rate = config.lr if is_new else config.joint_lr
        if name.startswith("npd.") and model.settings.npd != "state":
            rate *= NPD_RATE
        decay = config.weight_decay if parameter.dim() >= 2 and "ids." not in name and "position" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()],
        betas=(0.9, 0.98),
        fused=True,
    )


def clipped(model: MealRec) -> list[list[nn.Parameter]]:
    """Trainable parameters whose gradients are clipped together: the denoiser's, which learns from losses of its own, and all
    others."""
    own = [p for name, p in model.named_parameters() if p.requires_grad and name.startswith("npd.")]
    others = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("npd.")]
    return [group for group in (own, others) if group]
