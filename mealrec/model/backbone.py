"""Sequential backbones behind one interface (model.md 2.7): encode(z [B, L, D], mask [B, L]) -> H [B, L, D], causal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mealrec.model.layers import AttentionLayer, causal_mask
from mealrec.model.settings import ModelSettings


class SASRec(nn.Module):
    """Causal self-attention over the history (Kang and McAuley 2018). Differs from the paper: GELU, and a position counts
    the items seen so far, so that a left-padded window and a full one mean the same."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.position = nn.Embedding(settings.max_history, settings.width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.drop = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(
            AttentionLayer(settings.width, settings.heads, dropout=settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """z [B, L, D] left-padded, mask [B, L] bool -> H [B, L, D]; H_l sees positions <= l only. L <= max_history."""
        order = mask.long().cumsum(1).sub(1).clamp(min=0)  # 0 for a viewer's oldest item in the window
        x = self.drop(z + self.position(order)) * mask[..., None]
        attention = causal_mask(mask)
        for layer in self.layers:
            x = layer(x, attention)
        out: Tensor = self.norm(x)
        return out * mask[..., None]


def previous_state(states: Tensor, mask: Tensor, start: Tensor) -> Tensor:
    """u_l = H_{l-1} [B, L, D]: the state before each position, `start` [D] where nothing came before (2.3, no leak)."""
    shifted = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    has_past = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)
    return torch.where(has_past[..., None], shifted, start)
