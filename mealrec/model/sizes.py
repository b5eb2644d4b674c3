"""Sizes rounded up, so that a step's shapes come again.

On a CPU oneDNN makes a program for each shape of a product that it has not met lately. A step's sizes (its videos, places and
viewers) are hardly ever those of another one: some 180 programs were made a step and not used again, a tenth of its time and
more (benchmarks/LOG.md). The rows that are added, some hundredths of a large step's, are computed for nothing and left out of
what comes of it.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 64  # of what a step has some thousands of
FEW = 32  # of what it has hundreds of
PROGRAMS = 2048  # that are kept, of some 0.2 MiB; oneDNN's own number is 1,024, and a joint step has 400
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(PROGRAMS))  # read at the first product


def lacking(count: int, multiple: int = ROWS) -> int:
    """How many rows more make a multiple."""
    return -count % multiple


def repeated(index: Tensor, multiple: int = ROWS) -> Tensor:
    """index [n] with its first number behind it as often as rows are lacking; nothing stays nothing."""
    return torch.cat([index, index[:1].expand(lacking(len(index), multiple))]) if len(index) else index


def behind_zeros(values: Tensor, multiple: int = ROWS) -> Tensor:
    """values [n] behind as many zeros as rows are lacking, so that what was sorted and above zero stays sorted."""
    return F.pad(values, (lacking(len(values), multiple), 0))


def over_zeros(values: Tensor, multiple: int = FEW) -> Tensor:
    """values [n, ...] with as many rows of zeros below as are lacking."""
    return torch.cat([values, values.new_zeros(lacking(len(values), multiple), *values.shape[1:])])


def places(mask: Tensor) -> tuple[Tensor, int]:
    """Flat indices of the True places of a mask, `repeated`, and how many they are without that."""
    at = mask.flatten().nonzero()[:, 0]
    return repeated(at), len(at)
