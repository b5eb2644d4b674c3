"""Salience and pooling (model.md 2.5): which frames count for this condition, redundant ones less."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.layers import masked_softmax
from mealrec.model.tcd import Scene


class SaliencePooling(nn.Module):
    """s_f = (W_q c) . (W_k [xhat_f ; g_f]) / sqrt(D) - softplus(lambda) r_f; weights = softmax over valid frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        nn.init.zeros_(self.query.weight)  # starts as the plain mean of frames that are not redundant
        nn.init.zeros_(self.query.bias)
        self.key = nn.Linear(2 * width, width)
        self.redundancy = nn.Parameter(torch.zeros(()))

    def forward(self, refined: Tensor, scene: Scene, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Returns v [n, D] = sum_f a_f xhat_f and the weights a [n, F] (zeros where there is no frame)."""
        return self.weigh(self.keys(refined, scene.g), refined, scene.redundancy, scene.mask, condition)

    def keys(self, refined: Tensor, g: Tensor) -> Tensor:
        """W_k [xhat_f ; g_f] [n, F, D]: what does not depend on the condition."""
        out: Tensor = self.key(torch.cat([refined, g], -1))
        return out

    def weigh(
        self, key: Tensor, refined: Tensor, redundancy: Tensor, mask: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v and a from keys and tokens [n, F, D], redundancy and mask [n, F], condition [n, D]. Cost: F x D a video."""
        score = (key * self.query(condition)[:, None]).sum(-1) / math.sqrt(key.shape[-1])
        weight = masked_softmax(score - F.softplus(self.redundancy) * redundancy, mask)
        return (weight[..., None] * refined).sum(1), weight
