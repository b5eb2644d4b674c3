"""One level of diffusion on a sequential encoder: the next video's vector is generated from noise under the history's state.

Generation guided by the history, with and without it mixed (Yang et al. 2023, arXiv 2310.20453: DreamRec); trained by the
cross-entropy of the generated vector over the catalogue, which also keeps the vectors from collapsing onto one another
(Li et al. 2023, arXiv 2304.00686: DiffuRec).

B viewers, L history, N videos, D width, m trained positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mealrec.model.backbone import SASRec
from mealrec.model.baselines.protocol import Facts, Summed, Trainable
from mealrec.model.layers import rms_norm, sinusoid
from mealrec.model.schedule import cosine_alpha_bar, ddim_step, diffuse

NOISE_SEED = 0
UNGUIDED_SHARE = 0.1


def visited_steps(steps: int, count: int) -> list[int]:
    """The `count` steps a shortened reverse process visits, from T down, evenly spaced; 0, the clean end, is appended."""
    if not 1 <= count <= steps:
        raise ValueError(f"sampling steps must lie in 1..{steps}: {count}")
    return [round(steps * (count - i) / count) for i in range(count + 1)]


class StateDenoiser(nn.Module):
    """The clean target vector from a noised one, the step and the state; y, state [m, D], t [m] -> [m, D].

    A correction to the state: with noise alone in y it can fall back on the encoder's own prediction."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.feed = nn.Sequential(
            nn.Linear(3 * width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )

    def forward(self, y: Tensor, t: Tensor, state: Tensor) -> Tensor:
        out: Tensor = state + self.feed(torch.cat([y, state, sinusoid(t, self.width)], -1))
        return out


class DreamRec(Trainable):
    """A diffusion head on SASRec, trained at every position. Scoring: B x N x D after `sampling_steps` passes of an MLP.

    Differs from the papers: the reverse process starts from one fixed noise vector and is deterministic, so a score
    depends on the history alone; vectors are diffused at unit RMS; the denoiser corrects the history's state by an MLP.
    From DreamRec: cross-entropy in place of the squared error. From DiffuRec: guidance, and a history read without the
    noised target mixed into its items."""

    alpha_bar: Tensor
    start_noise: Tensor

    def __init__(
        self,
        facts: Facts,
        *,
        max_history: int = 20,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        steps: int = 32,
        sampling_steps: int = 8,
        guidance: float = 1.0,
        dropout: float = 0.2,
    ) -> None:
        """guidance: w in (1 + w) x(state) - w x(no state)."""
        super().__init__(facts)
        self.max_history = max_history
        self.steps = steps
        self.visited = visited_steps(steps, sampling_steps)
        self.guidance = guidance
        self.ids = nn.Embedding(facts.items + 1, width, padding_idx=0)
        nn.init.normal_(self.ids.weight[1:], std=0.02)
        self.encoder = SASRec(width=width, max_history=max_history, layers=layers, heads=heads, dropout=dropout)
        self.unguided = nn.Parameter(torch.zeros(width))
        self.denoiser = StateDenoiser(width, dropout=dropout)
        self.register_buffer("alpha_bar", cosine_alpha_bar(steps))
        fixed = torch.Generator().manual_seed(NOISE_SEED)
        self.register_buffer("start_noise", torch.randn(width, generator=fixed))

    def states(self, history: Tensor) -> Tensor:
        """The encoder's state after each item; history [B, L], L <= max_history -> [B, L, D]."""
        out: Tensor = self.encoder(self.ids(history), history > 0)
        return out

    def loss(self, history: Tensor, target: Tensor, rng: torch.Generator) -> Summed:
        """Cross-entropy of the vector denoised from the target's own noised one, at every position that has a target."""
        trained = target > 0
        state, items = self.states(history)[trained], target[trained]
        device = state.device
        alone = torch.rand(len(items), 1, generator=rng, device=device) < UNGUIDED_SHARE
        t = torch.randint(1, self.steps + 1, (len(items),), generator=rng, device=device)
        noise = torch.randn(state.shape, generator=rng, device=device)
        y = diffuse(rms_norm(self.ids(items)), noise, self.alpha_bar[t].float()[:, None])
        predicted = self.denoiser(y, t, torch.where(alone, self.unguided, state))
        return self.next_item(predicted, self.ids.weight, items, rng)

    def generate(self, state: Tensor) -> Tensor:
        """The next video's vector [B, D] from the fixed noise, under the state [B, D]."""
        y = self.start_noise.expand_as(state)
        nothing = self.unguided.expand_as(state)
        predicted = state
        for step, following in zip(self.visited, self.visited[1:], strict=False):
            t = torch.full((len(state),), step, device=state.device)
            guided, free = self.denoiser(y, t, state), self.denoiser(y, t, nothing)
            predicted = guided + self.guidance * (guided - free)
            y = ddim_step(y, rms_norm(predicted), self.alpha_bar[step], self.alpha_bar[following])
        return predicted

    def scores(self, history: Tensor) -> Tensor:
        """Inner products [B, N + 1] of the generated vector with the catalogue's; history [B, L], its newest items count."""
        history = history[:, -self.max_history :]
        known = (history > 0).any(1, keepdim=True)
        state = torch.where(known, self.states(history)[:, -1], self.unguided)
        return self.generate(state) @ self.ids.weight.T
