"""Products' precision is the training's own affair."""

from __future__ import annotations

import pytest
import torch

from mealrec.training.precision import matmul


def test_the_precision_of_products_ends_with_the_block_also_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="stop"), matmul("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise RuntimeError("stop")
    assert torch.get_float32_matmul_precision() == before
