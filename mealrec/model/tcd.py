"""Temporal-guided Content Diffusion (model.md 2.3, 2.4): refine a video's frame tokens under a condition.

Forward process and refinement share the schedule and the denoiser. Refinement draws no randomness: the same video, viewer
state and weights give the same result, so it can be cached.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mealrec.model import schedule
from mealrec.model.layers import AttentionLayer, key_bias, sinusoid
from mealrec.model.settings import ModelSettings

DENOISER_HEADS = 4


class Scene(NamedTuple):
    """What the denoiser sees of n videos besides the noisy tokens: x, g [n, F, D], g_mean [n, D], redundancy, mask and
    position [n, F]. Independent of the viewer."""

    x: Tensor
    g: Tensor
    g_mean: Tensor
    redundancy: Tensor
    mask: Tensor
    position: Tensor

    def rows(self, index: Tensor) -> Scene:
        return Scene(*(part.index_select(0, index) for part in self))


class Denoiser(nn.Module):
    """xhat = sqrt(alpha_bar_t) y_t + W_out Transformer([c + tau(t) ; g_mean ; g_1..g_F ; y_1..y_F])[last F].

    W_out starts at zero, so an untrained denoiser returns the shrunk input."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.kind = nn.Parameter(torch.randn(4, width) * 0.02)
        self.layers = nn.ModuleList(AttentionLayer(width, DENOISER_HEADS, expand=2) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, y: Tensor, t: Tensor, alpha_bar: Tensor, condition: Tensor, scene: Scene) -> Tensor:
        """y [n, F, D], t [n], alpha_bar [n, 1, 1], condition [n, D] -> predicted clean tokens [n, F, D]."""
        head = torch.stack([condition + self.time(sinusoid(t, self.width)), scene.g_mean], 1) + self.kind[:2]
        sequence = torch.cat([head, scene.g + self.kind[2], y + scene.g + self.kind[3]], 1)
        valid = torch.cat([torch.ones_like(scene.mask[:, :1]).expand(-1, 2), scene.mask, scene.mask], 1)
        mask = key_bias(valid)  # the condition and the guidance's mean are always there
        for layer in self.layers[:-1]:
            sequence = layer(sequence, mask)
        frames = self.layers[-1](sequence, mask, last=y.shape[1])  # nobody reads the other places' last states
        clean: Tensor = (alpha_bar.sqrt() * y + self.out(self.norm(frames))) * scene.mask[..., None]
        return clean


class ContentDiffusion(nn.Module):
    """TCD: trains the denoiser on noised tokens, refines clean ones.

    With settings.tcd "attention" (A8) the same network sees the clean tokens once and no diffusion loss is asked of it."""

    alpha_bar: Tensor

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.steps = settings.diffusion_steps
        self.is_diffusion = settings.tcd == "diffusion"
        self.from_noise = settings.refine_from == "noise"
        self.predicts_noise = settings.predict == "noise"
        first = settings.diffusion_steps if self.from_noise else schedule.refinement_start(settings.diffusion_steps)
        self.visits = schedule.refinement_steps(first, settings.refine_steps)
        self.denoiser = Denoiser(settings.width, settings.denoiser_layers)
        # not a parameter and not in the state dict: it follows from the settings
        self.register_buffer("alpha_bar", schedule.cosine_alpha_bar(self.steps).float(), persistent=False)

    def refine(self, scene: Scene, condition: Tensor) -> Tensor:
        """Refinement form (after DiffRec's un-noised start): from sqrt(alpha_bar) x at t_0 = T/8, deterministic DDIM steps,
        no fresh noise. Generation form (refine_from "noise"): from one fixed Gaussian at t = T. Returns xhat [n, F, D]."""
        n = scene.x.shape[0]
        if not self.is_diffusion:
            one = self.alpha_bar[0]
            return self._clean(scene.x, scene.x.new_zeros(n), one.expand(n, 1, 1), condition, scene)
        y = self._fixed_noise(scene) if self.from_noise else self.alpha_bar[self.visits[0]].sqrt() * scene.x
        clean = scene.x
        for t, following in zip(self.visits, [*self.visits[1:], 0], strict=True):
            now, after = self.alpha_bar[t], self.alpha_bar[following]
            clean = self._clean(y, y.new_full((n,), t), now.expand(n, 1, 1), condition, scene)
            y = schedule.ddim_step(y, clean, now, after)
        return clean

    def _clean(self, y: Tensor, t: Tensor, alpha_bar: Tensor, condition: Tensor, scene: Scene) -> Tensor:
        """The clean tokens that the network's output stands for."""
        out: Tensor = self.denoiser(y, t, alpha_bar, condition, scene)
        if not self.predicts_noise:
            return out
        return schedule.clean_from_noise(y, out, alpha_bar) * scene.mask[..., None]

    def _fixed_noise(self, scene: Scene) -> Tensor:
        """The same draw for every video, so that generation is a function of its input."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(scene.x.shape[1:], generator=generator).to(scene.x).expand_as(scene.x)

    def loss(self, scene: Scene, condition: Tensor, generator: torch.Generator, share: Tensor | None = None) -> Tensor:
        """Sum over videos of the SNR-weighted mean squared error of the tokens at a random step; share [n]: how much of each
        video counts, all of it where None."""
        n = scene.x.shape[0]
        t = torch.randint(1, self.steps + 1, (n,), generator=generator, device=scene.x.device)
        noise = torch.randn(scene.x.shape, generator=generator, device=scene.x.device)
        alpha_bar = self.alpha_bar[t][:, None, None]
        target = scene.x.detach()
        out = self.denoiser(schedule.diffuse(target, noise, alpha_bar), t, alpha_bar, condition, scene)
        frames = scene.mask.sum(1)
        wanted = noise if self.predicts_noise else target
        error = ((out - wanted).square().mean(-1) * scene.mask).sum(1) / frames.clamp(min=1)
        has_frames = (frames > 0).float()
        # an error of the noise already weighs the clean error by the signal-to-noise ratio
        weight = has_frames if self.predicts_noise else has_frames * schedule.snr_weight(alpha_bar[:, 0, 0])
        if share is not None:
            weight = share * weight
        total: Tensor = (weight * error).sum()
        return total
