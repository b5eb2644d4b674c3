"""Diffusion over a viewer's whole interaction vector (Wang et al. 2023, arXiv 2304.04971): DiffRec, T-DiffRec, L-DiffRec.

The vector x [N + 1] has a value for each video the viewer watched and 0 elsewhere (column 0, padding, is always 0). It is
noised a little, an MLP told the step predicts the clean vector, and at inference the reverse process starts from the vector
as observed, so that what the viewer did is not lost in noise. Steps are t = 1..T; index 0 is the clean end.

B viewers, L history, N videos, T steps, M width of what is diffused, Z latent width of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mealrec.model.baselines.protocol import Facts, Summed, Trainable
from mealrec.model.layers import sinusoid

STEP_WIDTH = 16
NOISE_SEED = 0
KMEANS_ROUNDS = 20


def seen_vector(items: Tensor, catalogue: int) -> Tensor:
    """items [B, L] (0: none) -> [B, N + 1] float32, 1 at every item that occurs."""
    out = torch.zeros(len(items), catalogue + 1, device=items.device).scatter(1, items, 1.0)
    out[:, 0] = 0
    return out


def recency_vector(items: Tensor, catalogue: int, least: float, most: float) -> Tensor:
    """items [B, L] oldest first, left-padded -> [B, N + 1] float32: linear from `least` at a row's oldest item to `most` at
    its newest (a single item gets `most`); an item that occurs twice keeps its newest weight."""
    mask = items > 0
    behind = (mask.flip(1).long().cumsum(1) - 1).flip(1)  # items that came later
    span = (mask.sum(1, keepdim=True) - 1).clamp(min=1)
    weight = most - (most - least) * behind / span
    empty = torch.zeros(len(items), catalogue + 1, device=items.device)
    return empty.scatter_reduce(1, items, weight * mask, "amax")


class LinearVariance(nn.Module):
    """A Gaussian process whose total noise variance grows linearly from scale * least (t = 1) to scale * most (t = T)."""

    signal: Tensor
    sigma: Tensor
    to_clean: Tensor
    to_noisy: Tensor
    deviation: Tensor

    def __init__(self, steps: int, *, scale: float, least: float, most: float) -> None:
        super().__init__()
        if steps < 1 or not 0 < scale * least <= scale * most < 1:
            raise ValueError(
                f"need steps >= 1 and 0 < scale * least <= scale * most < 1: {steps}, {scale}, {least}, {most}"
            )
        self.steps = steps
        variance = torch.cat([torch.zeros(1), scale * torch.linspace(least, most, steps)]).double()
        alpha_bar = 1 - variance
        before, now = alpha_bar[:-1], alpha_bar[1:]
        beta = 1 - now / before
        none = torch.zeros(1, dtype=torch.float64)
        tables = {
            "signal": alpha_bar.sqrt(),
            "sigma": variance.sqrt(),
            "to_clean": torch.cat([none, before.sqrt() * beta / (1 - now)]),
            "to_noisy": torch.cat([none, (now / before).sqrt() * (1 - before) / (1 - now)]),
            "deviation": torch.cat([none, (beta * (1 - before) / (1 - now)).sqrt()]),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float())

    def draw_steps(self, rows: int, rng: torch.Generator) -> Tensor:
        """t [rows], uniform in 1..T."""
        return torch.randint(1, self.steps + 1, (rows,), generator=rng, device=self.signal.device)

    def noised(self, x: Tensor, t: Tensor, rng: torch.Generator) -> Tensor:
        """q(y_t | x): x [B, M], t [B] -> [B, M]."""
        noise = torch.randn(x.shape, generator=rng, device=x.device)
        return self.signal[t][:, None] * x + self.sigma[t][:, None] * noise

    def reverse(
        self, denoise: Callable[[Tensor, Tensor], Tensor], y: Tensor, start: int, *, noise: Tensor | None = None
    ) -> Tensor:
        """From y [B, M], taken as if it were at step `start`, down the posterior means to the clean end.

        noise [T + 1, M], shared by the rows, is added at each step's posterior deviation; None: the means alone."""
        for t in range(start, 0, -1):
            clean = denoise(y, torch.full((len(y),), t, device=y.device))
            y = self.to_clean[t] * clean + self.to_noisy[t] * y
            if noise is not None:
                y = y + self.deviation[t] * noise[t]
        return y


class StepMLP(nn.Module):
    """The clean vector from a noised one and its step; y [B, M], t [B] -> [B, M]. One hidden layer: 2 M width parameters."""

    def __init__(self, size: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.enter = nn.Linear(size, width)
        self.step = nn.Linear(STEP_WIDTH, width)
        self.leave = nn.Linear(width, size)

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        hidden = self.enter(self.drop(F.normalize(y, dim=-1))) + self.step(sinusoid(t, STEP_WIDTH))
        out: Tensor = self.leave(hidden.tanh())
        return out


def first_step(start: int | None, steps: int) -> int:
    """The step at which the reverse process begins: `start`, or the last one for None."""
    begin = steps if start is None else start
    if not 1 <= begin <= steps:
        raise ValueError(f"start must lie in 1..{steps}: {begin}")
    return begin


class DiffRec(Trainable):
    """The vector of watched videos, denoised. Cost and parameters: B x N x width a step; memory B x N.

    Differs from the paper: steps are drawn uniformly and weigh the same (no importance sampling by past losses and no
    ELBO weights, which such small noise makes huge), and a viewer longer than the window counts once a window."""

    def __init__(
        self,
        facts: Facts,
        *,
        width: int = 256,
        steps: int = 5,
        noise_scale: float = 0.01,
        noise_min: float = 0.001,
        noise_max: float = 0.01,
        sampling_noise: bool = False,
        start: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(facts)
        self.noise = LinearVariance(steps, scale=noise_scale, least=noise_min, most=noise_max)
        self.denoiser = StepMLP(facts.items + 1, width, dropout=dropout)
        self.start = first_step(start, steps)
        self.sampling_noise = sampling_noise

    def interactions(self, items: Tensor) -> Tensor:
        """items [B, L] -> x [B, N + 1]."""
        return seen_vector(items, self.items)

    def loss(self, history: Tensor, target: Tensor, rng: torch.Generator) -> Summed:
        """Squared error of the denoised vector of history and newest item, summed over videos; count: viewers with any."""
        items = torch.cat([history, target[:, -1:]], 1)
        items = items[(items > 0).any(1)]
        x = self.interactions(items)
        t = self.noise.draw_steps(len(x), rng)
        predicted = self.denoiser(self.noise.noised(x, t, rng), t)
        return Summed((predicted - x).square().sum(), len(x))

    def scores(self, history: Tensor) -> Tensor:
        """The denoised vector [B, N + 1] of a history [B, L]."""
        x = self.interactions(history)
        return self.noise.reverse(self.denoiser, x, self.start, noise=self._sampling_noise(x))

    def _sampling_noise(self, x: Tensor) -> Tensor | None:
        """The same draws at every call and for every row, so that a score depends on the history alone."""
        if not self.sampling_noise:
            return None
        fixed = torch.Generator().manual_seed(NOISE_SEED)
        return torch.randn(self.noise.steps + 1, x.shape[1], generator=fixed).to(x.device)


class TDiffRec(DiffRec):
    """T-DiffRec of the same paper: newer videos weigh more in the vector, linearly by position from w_min to w_max.

    Differs from the paper: as DiffRec; and positions are counted inside the window."""

    def __init__(
        self,
        facts: Facts,
        *,
        w_min: float = 0.1,
        w_max: float = 1.0,
        width: int = 256,
        steps: int = 5,
        noise_scale: float = 0.01,
        noise_min: float = 0.001,
        noise_max: float = 0.01,
        sampling_noise: bool = False,
        start: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            facts,
            width=width,
            steps=steps,
            noise_scale=noise_scale,
            noise_min=noise_min,
            noise_max=noise_max,
            sampling_noise=sampling_noise,
            start=start,
            dropout=dropout,
        )
        if not 0 < w_min <= w_max:
            raise ValueError(f"need 0 < w_min <= w_max: {w_min}, {w_max}")
        self.w_min, self.w_max = w_min, w_max

    def interactions(self, items: Tensor) -> Tensor:
        """items [B, L] oldest first -> x [B, N + 1], weighted by recency."""
        return recency_vector(items, self.items, self.w_min, self.w_max)


def kmeans(vectors: Tensor, count: int) -> Tensor:
    """Labels [n] of vectors [n, d] in at most `count` clusters. Deterministic: the first centre is the vector nearest the
    mean, each next one the vector farthest from the centres so far. Memory n x count."""
    chosen = [int((vectors - vectors.mean(0)).square().sum(-1).argmin())]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(vectors, vectors[chosen]).amin(1).argmax()))
    centres = vectors[chosen]
    for _ in range(KMEANS_ROUNDS):
        labels = torch.cdist(vectors, centres).argmin(1)
        size = torch.bincount(labels, minlength=count)
        total = torch.zeros_like(centres).index_add(0, labels, vectors)
        # an empty cluster keeps its centre
        centres = torch.where(size[:, None] > 0, total / size.clamp(min=1)[:, None], centres)
    return torch.cdist(vectors, centres).argmin(1)


def content_clusters(facts: Facts, count: int) -> list[Tensor]:
    """The catalogue's items 1..N in up to `count` groups of like content; those without content are a group of their own."""
    known = facts.has_content.clone()
    known[0] = False
    if facts.content.shape[1] == 0 or not bool(known.any()):
        return [torch.arange(1, facts.items + 1)]
    vectors = F.normalize(facts.content[known], dim=-1)
    labels = torch.full((facts.items + 1,), count, device=facts.content.device)
    labels[known] = kmeans(vectors, min(count, len(vectors)))
    groups = [(labels[1:] == label).nonzero()[:, 0] + 1 for label in range(count + 1)]
    return [group for group in groups if len(group)]


class Posterior(NamedTuple):
    """A viewer's Gaussian in the latent space: mean and log variance, both [B, clusters * Z]."""

    mean: Tensor
    log_variance: Tensor


class LDiffRec(Trainable):
    """L-DiffRec of the same paper: videos are clustered, each cluster's part of the vector has its own variational encoder
    and decoder, and diffusion runs on the latents joined. Cost: B x N x Z for the two ends, free of N between them.

    Differs from the paper: clusters come from the content vectors instead of a trained factorisation, every cluster gets
    the same latent width, encoders are one layer deep, the weight of the divergence is constant, and steps are drawn
    uniformly and weigh the same."""

    order: Tensor

    def __init__(
        self,
        facts: Facts,
        *,
        width: int = 128,
        latent: int = 32,
        clusters: int = 2,
        steps: int = 5,
        noise_scale: float = 0.1,
        noise_min: float = 0.001,
        noise_max: float = 0.1,
        start: int | None = None,
        divergence: float = 0.1,
        dropout: float = 0.5,
    ) -> None:
        """latent: Z, of each cluster; divergence: weight of the KL term against the reconstruction."""
        super().__init__(facts)
        groups = content_clusters(facts, clusters)
        self.register_buffer("order", torch.cat(groups))
        self.sizes = [len(group) for group in groups]
        self.drop = nn.Dropout(dropout)
        self.encoders = nn.ModuleList(nn.Linear(size, 2 * latent) for size in self.sizes)
        self.decoders = nn.ModuleList(nn.Linear(latent, size) for size in self.sizes)
        self.noise = LinearVariance(steps, scale=noise_scale, least=noise_min, most=noise_max)
        self.denoiser = StepMLP(latent * len(groups), width, dropout=0.0)
        self.start = first_step(start, steps)
        self.divergence = divergence

    def encode(self, x: Tensor) -> Posterior:
        """x [B, N + 1] -> the latents' posterior."""
        parts = self.drop(F.normalize(x, dim=-1))[:, self.order].split(self.sizes, 1)
        halves = [encoder(part).chunk(2, -1) for encoder, part in zip(self.encoders, parts, strict=True)]
        return Posterior(torch.cat([m for m, _ in halves], -1), torch.cat([v for _, v in halves], -1))

    def decode(self, z: Tensor) -> Tensor:
        """z [B, clusters * Z] -> logits [B, N + 1], column 0 zero."""
        parts = z.chunk(len(self.sizes), -1)
        logits = torch.cat([decoder(part) for decoder, part in zip(self.decoders, parts, strict=True)], -1)
        return logits.new_zeros(len(z), self.items + 1).index_copy(1, self.order, logits)

    def loss(self, history: Tensor, target: Tensor, rng: torch.Generator) -> Summed:
        """Multinomial likelihood of the set under the decoded denoised latent, its error and the divergence; count: viewers."""
        items = torch.cat([history, target[:, -1:]], 1)
        items = items[(items > 0).any(1)]
        x = seen_vector(items, self.items)
        mean, log_variance = self.encode(x)
        z = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=rng, device=mean.device)
        t = self.noise.draw_steps(len(z), rng)
        predicted = self.denoiser(self.noise.noised(z, t, rng), t)
        likelihood = (F.log_softmax(self.decode(predicted)[:, 1:], -1) * x[:, 1:]).sum()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return Summed((predicted - z).square().sum() - likelihood + self.divergence * divergence, len(x))

    def scores(self, history: Tensor) -> Tensor:
        """Logits [B, N + 1] decoded from the denoised mean latent of a history [B, L]."""
        z = self.encode(seen_vector(history, self.items)).mean
        return self.decode(self.noise.reverse(self.denoiser, z, self.start))
