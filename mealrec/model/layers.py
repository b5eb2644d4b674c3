"""Building blocks: gain-free RMS norm, sinusoids on real numbers, masked softmax, pre-LN attention layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / rms(x) over the last axis, without gain: every clean token has unit RMS, so a noise level means the same on
    every video (model.md 2.1)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def project_unit(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """rms_norm(x) @ weight.T for frozen features x [..., d], weight [D, d] -> [..., D]: the projection is divided by the norm
    instead of the features, which are several times as wide."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / max(x.shape[-1], 1)
    return F.linear(x, weight) * torch.rsqrt(mean_square + eps)


def sinusoid(value: Tensor, width: int, *, scale: float = 1.0) -> Tensor:
    """Sinusoidal code of real numbers: value [...] -> [..., width]."""
    half = width // 2
    frequency = torch.exp(-math.log(10_000.0) * torch.arange(half, device=value.device, dtype=torch.float32) / half)
    angle = value.float()[..., None] * scale * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis among mask; a row with nothing valid gives zeros, not NaN (model.md 7)."""
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return F.softmax(filled, -1) * mask


class Dropout(nn.Module):
    """Dropout that draws eight decisions from one random 64-bit number: on a CPU several times faster than torch's, which draws
    a double each. The rate is rounded to a 256th, and the scale fits the rounded rate. Randomness comes from torch's global
    generator, as everywhere in dropout."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout {rate} is not in [0, 1)")
        self.rate = rate
        self.kept = max(round(256 * (1 - rate)), 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.kept == 256:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.rate)
        n = x.numel()
        bits = torch.empty((n + 7) // 8, dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)[:n]
        return x * (bits.view(x.shape) < self.kept).to(x.dtype).mul_(256 / self.kept)


class AttentionLayer(nn.Module):
    """Pre-LN multi-head attention and feed-forward with residuals; x [n, l, D] -> [n, l, D]."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, expand: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.norm_feed = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, expand * width), nn.GELU(), Dropout(dropout), nn.Linear(expand * width, width)
        )
        self.drop = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, *, last: int | None = None) -> Tensor:
        """mask, broadcastable to [n, heads, l, l]: which key a query may see, as bool (a query with no key passes its residual
        only) or as what is added to the scores (`key_bias`). last: all places are seen, but only so many at the end are asked
        for: [n, last, D]."""
        width = x.shape[-1]
        normed = self.norm_attention(x)
        if last is None:
            q, k, v = self.qkv(normed).chunk(3, -1)
        else:
            x = x[:, -last:]
            q = F.linear(normed[:, -last:], self.qkv.weight[:width], self.qkv.bias[:width])
            k, v = F.linear(normed, self.qkv.weight[width:], self.qkv.bias[width:]).chunk(2, -1)
        attended = _attend(self._by_head(q), self._by_head(k), self._by_head(v), mask)
        x = x + self.drop(self.out(attended.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.drop(self.feed(self.norm_feed(x)))
        return out

    def _by_head(self, x: Tensor) -> Tensor:
        """[n, l, D] -> [n, heads, l, D / heads]."""
        n, length, width = x.shape
        return x.view(n, length, self.heads, width // self.heads).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over the keys in mask, 0 for a query without any: q, k, v [n, heads, l, d] -> the same.

    On a CPU two plain products: torch's fused kernel works in blocks of 32 positions and more, and histories are shorter."""
    is_bias = mask.is_floating_point()
    if q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (F.softmax(scores.add_(mask), -1) if is_bias else masked_softmax(scores, mask)) @ v
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype) if is_bias else mask)
    if is_bias:
        return attended
    # a fully masked row is 0 or NaN depending on the kernel: make it 0 everywhere
    return torch.where(mask.any(-1, keepdim=True), attended, torch.zeros_like(attended))


def key_mask(valid: Tensor) -> Tensor:
    """valid [n, l] bool -> [n, 1, 1, l]: every query sees the valid keys."""
    return valid[:, None, None, :]


def key_bias(valid: Tensor) -> Tensor:
    """The same as what is added to the scores, float32, where every row has a valid key: three passes over the scores fewer,
    forwards and backwards, and the same result to the last bit."""
    bias = torch.zeros(valid.shape, device=valid.device)
    return bias.masked_fill_(~valid, torch.finfo(torch.float32).min)[:, None, None]


def causal_mask(valid: Tensor) -> Tensor:
    """valid [n, l] bool -> [n, 1, l, l]: a query sees valid keys up to itself."""
    length = valid.shape[1]
    lower = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    return valid[:, None, None, :] & lower


def causal_bias(valid: Tensor) -> Tensor:
    """The same as what is added to the scores, float32. A query that is not valid, which nobody reads, sees itself as well, so
    that every row has a key."""
    hidden = ~causal_mask(valid)
    hidden.diagonal(dim1=-2, dim2=-1).fill_(False)
    bias = torch.zeros(hidden.shape, device=valid.device)
    return bias.masked_fill_(hidden, torch.finfo(torch.float32).min)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """values [m, D] at the True places of mask [B, L] -> [B, L, D], zeros elsewhere."""
    return values.new_zeros(*mask.shape, values.shape[-1]).masked_scatter(mask[..., None], values)
