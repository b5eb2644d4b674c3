"""The pass that is compiled gives what the model gives: from tables instead of gathered content, padded where it is short."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.model.incremental import encode, prefer
from mealrec.model.inference import parts
from mealrec.model.window import Seen, Tables, WholeWindow, encoding_of, rows_of
from tests.model.test_incremental import HISTORY, model_of


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"personal": "pooling"},
        {"tcd": "mean"},
        {"backbone": "gru4rec"},
        {"backbone": "bert4rec"},
        {"backbone": "nextitnet"},
        {"npd": "state"},
        {"npd": "told"},
        {"guidance": False},
        {"content": False},
    ],
)
def test_a_whole_window_is_encoded_and_denoised_as_item_by_item(packed: Packed, changes: dict[str, Any]) -> None:
    model, content = model_of(packed, **changes), packed.content
    plain = torch.cat([torch.zeros(1, 16), parts(model, content.gather, torch.arange(1, packed.items + 1)).plain])
    stored = {name: content.mapped(name) for name in ("visual", "audio", "text", "position", "frame_mask")}
    tables = Tables(
        plain=plain,
        ids=model.ids.weight.detach(),
        **stored,
        available=content.available(),
        log_popularity=content.log_popularity(),
    )
    for length in (1, 2, 3, 6):
        window = HISTORY[-length:]
        held = encode(model, content.gather, plain, window, None)
        state, unusual = prefer(model, held)
        with torch.no_grad():
            seen = Seen(*WholeWindow(model)(rows_of(window), *tables))
        found = encoding_of(window, seen)
        assert found.items == tuple(window)
        for name in ("z", "described", "salience", "user"):
            assert torch.allclose(getattr(found, name), getattr(held, name), atol=1e-5), (length, name)
        assert torch.allclose(seen.state, state, atol=1e-5) and torch.allclose(seen.unusual, unusual, atol=1e-5)
