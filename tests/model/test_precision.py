"""How float32 products are computed."""

from __future__ import annotations

import pytest
import torch

from mealrec.model import precision
from mealrec.model.precision import exact_products, matmul


def test_the_precision_of_products_ends_with_the_block_also_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="stop"), matmul("medium"):
        assert torch.get_float32_matmul_precision() == "medium"
        raise RuntimeError("stop")
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("is_exact", "chosen"), [(True, "medium"), (False, "highest")])
def test_ranking_takes_the_quick_kernel_only_where_it_is_exact(
    monkeypatch: pytest.MonkeyPatch, *, is_exact: bool, chosen: str
) -> None:
    monkeypatch.setattr(precision, "medium_is_exact", lambda: is_exact)
    with matmul("high"):
        with exact_products():
            assert torch.get_float32_matmul_precision() == chosen
        with exact_products("cuda"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"


def test_products_for_ranking_err_no_more_than_float32() -> None:
    a, b = torch.randn(50, 64), torch.randn(3000, 64)
    with exact_products():
        error = (a @ b.T).double() - a.double() @ b.double().T
    assert float(error.abs().max()) < precision.ROUNDING


def test_a_kernel_that_rounds_to_bfloat16_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.mm(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else torch.mm(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not precision.medium_is_exact.__wrapped__()


@pytest.mark.parametrize(
    ("allowed", "native", "given", "wanted"),
    [
        ("medium", True, torch.float32, torch.bfloat16),
        ("high", True, torch.float32, torch.float32),
        ("medium", False, torch.float32, torch.float32),
        ("medium", True, torch.float64, torch.float64),
    ],
)
def test_scores_are_rounded_only_where_that_is_allowed_and_native(
    monkeypatch: pytest.MonkeyPatch, allowed: str, native: bool, given: torch.dtype, wanted: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: native)
    with matmul(allowed):
        assert precision.score_dtype(torch.zeros(2, dtype=given)) == wanted
        assert precision.score_dtype(torch.zeros(2, dtype=given, device="meta")) == given  # another device


def test_an_instruction_for_bfloat16_is_found_among_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, wanted in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert precision.multiplies_bfloat16.__wrapped__() is wanted
