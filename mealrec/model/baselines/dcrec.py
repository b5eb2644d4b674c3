"""Diffusion under two conditions (Huang et al. 2024, arXiv 2410.21967: DCRec): the history both noised along and clean.

History and target are one sequence of vectors, noised together: the noised history beside the target is the implicit
condition, the clean history, met by cross-attention, the explicit one. A transformer told the step predicts the target.

B viewers, L history, N videos, D width; the sequence has L + 1 places, and place p holds the item that followed p others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.baselines.dreamrec import visited_steps
from mealrec.model.baselines.protocol import Facts, Summed, Trainable
from mealrec.model.layers import AttentionLayer, causal_mask, rms_norm, sinusoid
from mealrec.model.schedule import cosine_alpha_bar, ddim_step, diffuse

NOISE_SEED = 0


class CrossAttention(nn.Module):
    """Pre-LN attention of x [B, p, D] to keys [B, k, D] with a residual; a query that may see no key keeps its value."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """mask [B, 1, p, k] bool: which key a query may see -> [B, p, D]."""
        b, places, width = x.shape
        q = self.query(self.norm(x)).view(b, places, self.heads, width // self.heads).transpose(1, 2)
        k, v = self.key_value(keys).view(b, keys.shape[1], 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = self.drop(self.out(attended.transpose(1, 2).reshape(b, places, width)))
        # a fully masked row is 0 or NaN depending on the kernel
        return torch.where(mask[:, 0].any(-1, keepdim=True), x + mixed, x)


class DCRec(Trainable):
    """Dual conditional diffusion. Scoring: `sampling_steps` passes of the transformer, L^2 D each, then B x N x D.

    Differs from the paper: both attentions are causal, so every item of a window is a target in one pass; the step is
    added to the tokens instead of modulating the norms; the only loss is the cross-entropy over the catalogue; at
    inference the noise is fixed and the steps deterministic, so a score depends on the history alone."""

    alpha_bar: Tensor
    fixed_noise: Tensor

    def __init__(
        self,
        facts: Facts,
        *,
        max_history: int = 20,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        steps: int = 32,
        sampling_steps: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(facts)
        self.max_history = max_history
        self.steps = steps
        self.visited = visited_steps(steps, sampling_steps)
        self.ids = nn.Embedding(facts.items + 1, width, padding_idx=0)
        nn.init.normal_(self.ids.weight[1:], std=0.02)
        self.position = nn.Embedding(max_history + 1, width)
        self.step = nn.Linear(width, width)
        self.implicit = nn.ModuleList(AttentionLayer(width, heads, dropout=dropout) for _ in range(layers))
        self.explicit = nn.ModuleList(CrossAttention(width, heads, dropout=dropout) for _ in range(layers))
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("alpha_bar", cosine_alpha_bar(steps))
        fixed = torch.Generator().manual_seed(NOISE_SEED)
        self.register_buffer("fixed_noise", torch.randn(max_history + 1, width, generator=fixed))

    def vectors(self, items: Tensor) -> Tensor:
        """What is diffused: items' vectors at unit RMS, [...] -> [..., D]; zeros for padding."""
        return rms_norm(self.ids(items))

    def denoise(self, noised: Tensor, valid: Tensor, history: Tensor, t: Tensor) -> Tensor:
        """Predicted clean vectors at every place; noised [B, L + 1, D], valid [B, L + 1], history [B, L], t [B].

        Place p sees noised places up to itself and the clean history before it: never its own clean item."""
        order = self.position(valid.long().cumsum(1).sub(1).clamp(min=0))
        x = self.drop(noised + order + self.step(sinusoid(t, noised.shape[-1]))[:, None])
        clean = self.drop(self.vectors(history) + order[:, :-1])
        places = torch.arange(valid.shape[1], device=valid.device)
        earlier = (places[:, None] > places[None, :-1]) & (history > 0)[:, None, None, :]
        upto = causal_mask(valid)
        for implicit, explicit in zip(self.implicit, self.explicit, strict=True):
            x = implicit(explicit(x, clean, earlier), upto)
        out: Tensor = self.norm(x)
        return out

    def loss(self, history: Tensor, target: Tensor, rng: torch.Generator) -> Summed:
        """Cross-entropy of the predicted vector at every place that follows a history item and has a target."""
        items = torch.cat([history, target[:, -1:]], 1)
        t = torch.randint(1, self.steps + 1, (len(items),), generator=rng, device=items.device)
        clean = self.vectors(items)
        noise = torch.randn(clean.shape, generator=rng, device=clean.device)
        noised = diffuse(clean, noise, self.alpha_bar[t].float()[:, None, None])
        predicted = self.denoise(noised, items > 0, history, t)[:, 1:]
        trained = target > 0
        return self.next_item(predicted[trained], self.ids.weight, target[trained], rng)

    def generate(self, history: Tensor) -> Tensor:
        """The next video's vector [B, D] from fixed noise; the history is noised to each visited step. L <= max_history."""
        rows, length = history.shape
        noise = self.fixed_noise[-length - 1 :].expand(
            rows, -1, -1
        )  # by distance from the target: padding shifts nothing
        valid = torch.cat([history > 0, torch.ones_like(history[:, :1], dtype=torch.bool)], 1)
        past, y = self.vectors(history), noise[:, -1]
        predicted = y
        for step, following in zip(self.visited, self.visited[1:], strict=False):
            t = torch.full((rows,), step, device=history.device)
            noised = torch.cat([diffuse(past, noise[:, :-1], self.alpha_bar[step]), y[:, None]], 1)
            predicted = self.denoise(noised, valid, history, t)[:, -1]
            y = ddim_step(y, rms_norm(predicted), self.alpha_bar[step], self.alpha_bar[following])
        return predicted

    def scores(self, history: Tensor) -> Tensor:
        """Inner products [B, N + 1] of the generated vector with the catalogue's; history [B, L], its newest items count."""
        return self.generate(history[:, -self.max_history :]) @ self.ids.weight.T
