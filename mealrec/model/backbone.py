"""Sequential backbones behind one interface (model.md 2.7): z [B, L, D], mask [B, L] -> H [B, L, D], H_l after item l.

SASRec, GRU4Rec and NextItNet are causal: H_l sees items up to l only. BERT4Rec sees both sides of a masked item, so it has
states for training of its own kind; at serving time only its last state is read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.layers import AttentionLayer, Dropout, causal_bias, key_bias
from mealrec.model.sizes import FEW, over_zeros


class TrainStates(NamedTuple):
    """H [B, L, D] and the positions [B, L] whose next item may be trained from them."""

    states: Tensor
    trained: Tensor


class Backbone(nn.Module):
    """Base of the backbones. causal: whether a state is free of later items at every position."""

    causal = True

    def train_states(self, z: Tensor, mask: Tensor, rng: torch.Generator) -> TrainStates:
        """States whose next item can be predicted: for a causal backbone those of every position."""
        return TrainStates(self(z, mask), mask)

    def newest(self, z: Tensor, mask: Tensor) -> Tensor:
        """H_L [B, D] alone, the state that recommends."""
        out: Tensor = self(z, mask)[:, -1]
        return out


class SASRec(Backbone):
    """Causal self-attention over the history (Kang and McAuley 2018, arXiv 1808.09781). Differs from the paper: GELU, and a
    position counts the items seen so far, so that a left-padded window and a full one mean the same."""

    def __init__(self, *, width: int, max_history: int, layers: int = 2, heads: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.position = nn.Embedding(max_history, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.drop = Dropout(dropout)
        self.layers = nn.ModuleList(AttentionLayer(width, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """z [B, L, D] left-padded, mask [B, L] bool -> H [B, L, D]. L <= max_history."""
        x, attention = self._start(*_more_viewers(z, mask))
        for layer in self.layers:
            x = layer(x, attention)
        out: Tensor = self.norm(x[: len(z)])
        return out * mask[..., None]

    def newest(self, z: Tensor, mask: Tensor) -> Tensor:
        """Of the last layer only the last position is computed: nobody reads the others."""
        x, attention = self._start(z, mask)
        for layer in self.layers[:-1]:
            x = layer(x, attention)
        x = self.layers[-1](x, attention[..., -1:, :], last=1)[:, -1]
        out: Tensor = self.norm(x)
        return out * mask[:, -1:]

    def _start(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        order = mask.long().cumsum(1).sub(1).clamp(min=0)  # 0 for a viewer's oldest item in the window
        return self.drop(z + self.position(order)) * mask[..., None], causal_bias(mask)


class GRU4Rec(Backbone):
    """A gated recurrent network over the history (Hidasi et al. 2016, arXiv 1511.06939). Differs from the paper: trained with
    the softmax loss of the other backbones, without session-parallel batches; an item that was dropped or padded leaves
    the state as it was."""

    def __init__(self, *, width: int, max_history: int, layers: int = 1, heads: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.gru = nn.GRU(width, width, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.out = nn.Linear(width, width)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Valid items are moved to the front, so that holes and padding cost no recurrence and change nothing."""
        length = mask.sum(1)
        front = torch.argsort((~mask).long(), dim=1, stable=True)
        packed = torch.gather(self.drop(z), 1, front[..., None].expand_as(z))
        hidden, _ = self.gru(packed)
        back = mask.long().cumsum(1).sub(1).clamp(min=0)
        states = torch.gather(hidden, 1, back[..., None].expand_as(hidden))
        out: Tensor = self.out(self.drop(states))
        return out * (mask & (length > 0)[:, None])[..., None]


class NextItNet(Backbone):
    """Dilated causal convolutions with residuals (Yuan et al. 2019, arXiv 1808.05163). Differs from the paper: GELU, one
    dilation cycle (1, 2, 4, ... one pair a layer), and items dropped from the history are zeros in it."""

    def __init__(self, *, width: int, max_history: int, layers: int = 2, heads: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**i) for i in range(2 * layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        keep = mask[..., None]
        x = self.drop(z) * keep
        for depth, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            seen = F.pad((F.gelu(norm(x)) * keep).transpose(1, 2), (2 * 2**depth, 0))
            x = (x + self.drop(convolution(seen).transpose(1, 2))) * keep
        out: Tensor = self.norm(x)
        return out * keep


class BERT4Rec(Backbone):
    """Bidirectional self-attention with masked items (Sun et al. 2019, arXiv 1904.06690): a [MASK] after the history stands
    for the next item. Differs from the paper: the appended [MASK] is always among the trained ones."""

    causal = False
    SHARE = 0.3  # of the history's items masked in training

    def __init__(self, *, width: int, max_history: int, layers: int = 2, heads: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.mask_vector = nn.Parameter(torch.randn(width) * 0.02)
        self.position = nn.Embedding(max_history + 1, width)
        nn.init.normal_(self.position.weight, std=0.02)
        self.drop = Dropout(dropout)
        self.layers = nn.ModuleList(AttentionLayer(width, heads, dropout=dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """The last position holds the state for the next item; the others see later items and are for no one to train on."""
        return self._states(z, mask, torch.zeros_like(mask))

    def train_states(self, z: Tensor, mask: Tensor, rng: torch.Generator) -> TrainStates:
        """Item l + 1 is masked at random and H_l is its state; the one after the history always is."""
        hidden = (torch.rand(mask.shape, generator=rng, device=mask.device) < self.SHARE) & mask
        hidden[:, :1] = False
        trained = torch.cat([hidden[:, 1:], torch.ones_like(mask[:, :1])], 1) & mask
        return TrainStates(self._states(z, mask, hidden), trained)

    def _states(self, z: Tensor, mask: Tensor, hidden: Tensor) -> Tensor:
        viewers = len(z)
        z = torch.where(hidden[..., None], self.mask_vector, z)
        z = torch.cat([z, self.mask_vector.expand(len(z), 1, -1)], 1)
        valid = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        z, valid = _more_viewers(z, valid)
        # counted from the end, so that the place of the next item is the same for every history
        behind = valid.long().flip(1).cumsum(1).flip(1).sub(1).clamp(min=0)
        x = self.drop(z + self.position(behind)) * valid[..., None]
        seen = key_bias(valid)
        for layer in self.layers:
            x = layer(x, seen)
        out: Tensor = self.norm(x[:viewers])[:, 1:]
        return out * mask[..., None]


def _more_viewers(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """z [B, L, D] and mask [B, L] of many viewers with a few below who have watched nothing (mealrec.model.sizes)."""
    return (over_zeros(z), over_zeros(mask)) if len(z) > FEW else (z, mask)


BACKBONES: dict[str, type[Backbone]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "nextitnet": NextItNet,
}


def backbone(name: str, *, width: int, max_history: int, layers: int, heads: int, dropout: float) -> Backbone:
    """The named backbone. Raises ValueError naming the valid ones."""
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; valid: {', '.join(BACKBONES)}")
    made = BACKBONES[name]
    return made(width=width, max_history=max_history, layers=layers, heads=heads, dropout=dropout)


def previous_state(states: Tensor, mask: Tensor, start: Tensor) -> Tensor:
    """u_l = H_{l-1} [B, L, D]: the state before each position, `start` [D] where nothing came before (2.3, no leak)."""
    shifted = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    has_past = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], 1)
    return torch.where(has_past[..., None], shifted, start)
