"""Top K with deterministic ties."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mealrec.model.top_k import top_k


@given(
    st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 3, 1_000_000])
)
def test_it_is_what_a_stable_sort_gives(seed: int, rows: int, items: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, items), generator=generator).float()
    scores[torch.rand(rows, items, generator=generator) < 0.2] = -torch.inf
    whole = torch.sort(scores, dim=1, descending=True, stable=True)
    values, indices = top_k(scores, k)
    assert values.equal(whole.values[:, :k]) and indices.equal(whole.indices[:, :k])
