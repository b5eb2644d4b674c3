"""Noise schedule and the closed forms of TCD's diffusion (model.md 2.4), shared by training and inference.

Steps are t = 1..T in the maths; alpha_bar[0] = 1 is the clean end. Computed in float64 and cast at use.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_alpha_bar(steps: int) -> Tensor:
    """alpha_bar for t = 0..T, float64 [T+1], strictly decreasing from 1 to above 0 (Nichol and Dhariwal 2021, eq. 17)."""
    t = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps  # also where the default device is "meta"
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    ratio = (f[1:] / f[:-1]).clamp(min=1e-3)  # beta_t at most 0.999, so that alpha_bar_T stays above 0
    alpha_bar = torch.cat([torch.ones_like(t[:1]), torch.cumprod(ratio, 0)])
    assert bool((alpha_bar[1:] < alpha_bar[:-1]).all()) and float(alpha_bar[-1]) > 0
    return alpha_bar


def diffuse(x: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """q(y_t | x): sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise; alpha_bar broadcasts against x."""
    return alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise


def clean_from_noise(y: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """The inverse of `diffuse` when the noise is known."""
    return (y - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()


def ddim_step(y: Tensor, clean: Tensor, alpha_bar: Tensor, alpha_bar_next: Tensor) -> Tensor:
    """One deterministic step from alpha_bar to the less noisy alpha_bar_next, given the predicted clean value."""
    noise = (y - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
    return alpha_bar_next.sqrt() * clean + (1 - alpha_bar_next).sqrt() * noise


def snr_weight(alpha_bar: Tensor, cap: float = 5.0) -> Tensor:
    """min(SNR, cap) / cap: the weight of the reconstruction loss at a step (min-SNR, Hang et al. 2023)."""
    return (alpha_bar / (1 - alpha_bar)).clamp(max=cap) / cap


def refinement_start(steps: int) -> int:
    """t_0 = T / 8, where the refinement of un-noised tokens starts."""
    return max(steps // 8, 1)


def refinement_steps(start: int, count: int) -> list[int]:
    """`count` steps from `start` down, evenly spaced, all at least 1."""
    return [max(round(start * (count - i) / count), 1) for i in range(count)]
