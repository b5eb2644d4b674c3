"""Top K with deterministic ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mealrec.model import top_k as module
from mealrec.model.top_k import best_of, top_k


@given(
    st.integers(0, 2**31),
    st.integers(1, 6),
    st.integers(1, 40) | st.sampled_from([257, 1000]),
    st.integers(1, 12),
    st.sampled_from([1, 3, 50, 1_000_000]),
)
def test_it_is_what_a_stable_sort_gives(seed: int, rows: int, items: int, k: int, levels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (rows, items), generator=generator).float()
    scores[torch.rand(rows, items, generator=generator) < 0.2] = -torch.inf
    before = scores.clone()
    whole = torch.sort(scores, dim=1, descending=True, stable=True)
    values, indices = top_k(scores, k)
    assert values.equal(whole.values[:, :k]) and indices.equal(whole.indices[:, :k])
    assert scores.equal(before)


def test_a_catalogue_is_searched_in_parts_without_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    # small whole numbers: products are exact whatever the shapes, and ties are everywhere
    catalogue = torch.randint(-2, 3, (900, 8), generator=generator).float()
    states = torch.randint(-2, 3, (11, 8), generator=generator).float()
    hidden = torch.randint(0, 900, (11, 30), generator=generator)
    scores = (states @ catalogue.T).scatter(1, hidden, -torch.inf)
    scores[:, 0] = -torch.inf
    whole = torch.sort(scores, dim=1, descending=True, stable=True)
    for at_once in (1, 900 * 4, 1 << 21):
        monkeypatch.setattr(module, "SCORES_AT_ONCE", at_once)
        monkeypatch.setattr(module, "FEWEST_ROWS", 2)
        values, indices = best_of(states, catalogue, 20, hidden)
        assert values.equal(whole.values[:, :20]) and indices.equal(whole.indices[:, :20])
    assert best_of(states[:0], catalogue, 20)[1].shape == (0, 20)
    assert best_of(states, catalogue, 5, padding=False)[1].equal(top_k(states @ catalogue.T, 5)[1])
