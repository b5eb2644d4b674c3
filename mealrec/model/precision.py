"""How products are computed: in training by the configured precision, in ranking by the fastest exact kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

ROUNDING = 1e-4  # largest error of a product of unit normals, 64 wide: float32 makes some 1e-5, bfloat16 .1


@contextmanager
def matmul(precision: str) -> Iterator[None]:
    """torch's float32 matmul precision ("highest", "high", "medium") inside the block, what it was before afterwards.

    "medium" lets a processor with bfloat16 matrix units (AMX) or a GPU (TF32) use them and add up in float32; a CPU without
    keeps float32, by oneDNN's kernels, which are more than twice as fast as MKL's on AMD processors (benchmarks/LOG.md). It
    also lets the loss over the catalogue hold its scores in bfloat16 (`score_dtype`)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def score_dtype(states: torch.Tensor) -> torch.dtype:
    """What a loss makes its scores of `states` in: bfloat16 for float32 on a CPU that multiplies it natively, where the
    precision of this moment allows it ("medium"); the states' own elsewhere. The products of a softmax take some half of the
    time then (benchmarks/LOG.md)."""
    is_allowed = states.device.type == "cpu" and torch.get_float32_matmul_precision() == "medium"
    is_rounded = is_allowed and states.dtype == torch.float32 and multiplies_bfloat16()
    return torch.bfloat16 if is_rounded else states.dtype


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16: without, they are slower than those of float32."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


@contextmanager
def exact_products(device: torch.device | str = "cpu") -> Iterator[None]:
    """Products in full float32 inside the block, on a CPU by oneDNN's kernels where these round no more than MKL's."""
    is_quick = torch.device(device).type == "cpu" and medium_is_exact()
    with matmul("medium" if is_quick else "highest"):
        yield


@cache
def medium_is_exact() -> bool:
    """Whether this CPU computes in full float32 when it is allowed bfloat16; found by trying, once a process."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 64, generator=generator) for n in (64, 4096))
    with matmul("medium"):
        error = (a @ b.T).double() - a.double() @ b.double().T
    return float(error.abs().max()) < ROUNDING
