"""How float32 products are computed while a model trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mealrec.training.settings import Matmul


@contextmanager
def matmul(precision: Matmul) -> Iterator[None]:
    """torch's float32 matmul precision inside the block, what it was before afterwards.

    "medium" lets a processor with bfloat16 matrix units (AMX) or a GPU (TF32) use them and add up in float32; a CPU without
    keeps float32, by oneDNN's kernels, which are more than twice as fast as MKL's on AMD processors (benchmarks/LOG.md)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
