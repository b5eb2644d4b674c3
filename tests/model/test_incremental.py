"""A viewer who watches one video more is encoded as from scratch; candidates' cached tokens give what the model gives live."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.model.incremental import Encoding, encode, prefer
from mealrec.model.inference import parts, preference
from mealrec.model.mealrec import MealRec
from mealrec.model.personal import Candidates, personal_vectors
from mealrec.model.settings import ModelSettings

HISTORY = [1, 7, 3, 5, 4, 9, 2, 6, 8, 1]  # longer than the window of 6; 5 has no content; 1 comes twice


def model_of(packed: Packed, **changes: Any) -> MealRec:
    torch.manual_seed(0)
    model = MealRec(ModelSettings(**{**packed.content.dims, "width": 16, "max_history": 6, **changes})).eval()
    with torch.no_grad():
        for part in (model.salience.query, model.tcd.denoiser.out):  # as if trained: these start at zero
            part.weight.normal_(std=0.5)
        if hasattr(model.npd, "residual"):
            model.npd.residual.weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"personal": "pooling"},
        {"backbone": "gru4rec"},
        {"backbone": "bert4rec"},
        {"npd": "state"},
        {"content": False},
    ],
)
def test_one_video_more_gives_what_encoding_from_scratch_gives(packed: Packed, changes: dict[str, Any]) -> None:
    model, gather = model_of(packed, **changes), packed.content.gather
    plain = torch.cat([torch.zeros(1, 16), parts(model, gather, torch.arange(1, packed.items + 1)).plain])
    held: Encoding | None = None
    for length in (1, 2, 4, 6, 7, 10):
        window = HISTORY[:length][-6:]
        held = encode(model, gather, plain, window, held)
        state, unusual = prefer(model, held)
        whole = preference(model, gather, torch.tensor([window]))
        assert torch.allclose(state, whole.state, atol=1e-5), length
        assert torch.allclose(unusual, whole.unusual, atol=1e-5)
        assert torch.allclose(held.salience, whole.salience[0], atol=1e-5)


def test_only_new_videos_are_looked_at_while_the_window_grows(packed: Packed) -> None:
    model, asked = model_of(packed), []
    plain = torch.cat(
        [torch.zeros(1, 16), parts(model, packed.content.gather, torch.arange(1, packed.items + 1)).plain]
    )

    def gather(index: torch.Tensor) -> Any:
        asked.append(index.tolist())
        return packed.content.gather(index)

    held = encode(model, gather, plain, [1, 7], None)
    assert encode(model, gather, plain, [1, 7], held) is held
    held = encode(model, gather, plain, [1, 7, 3], held)
    encode(model, gather, plain, [7, 3], held)  # no continuation: from scratch
    assert asked == [[1, 7], [3], [3, 7]]


def test_candidates_from_cached_tokens_are_as_the_model_sees_them_live(packed: Packed) -> None:
    model, gather = model_of(packed), packed.content.gather
    items = torch.arange(1, packed.items + 1)
    cached, content = parts(model, gather, items), gather(items)
    user = torch.randn(16, generator=torch.Generator().manual_seed(3))
    ids = model.id_vectors(items, content.log_popularity)
    # item-mode tokens, weighed for the viewer
    scene = model.scene(content)
    refined = model.refine(scene, model.conditions(None, ids))
    live = model.encode(scene, content, ids, model.conditions(user.expand(len(items), -1), ids), refined=refined)
    half = {name: getattr(cached, name).half().float() for name in ("refined", "key", "redundancy")}
    facts = {"mask": content.frame_mask, "text": content.text, "available": content.available}
    found = personal_vectors(model, user, Candidates(items, **half, **facts, log_popularity=content.log_popularity))
    assert torch.allclose(found, live.z, atol=1e-3)
    for_nobody = personal_vectors(
        model, model.null_user, Candidates(items, **half, **facts, log_popularity=content.log_popularity)
    )
    assert not torch.allclose(found, for_nobody, atol=1e-2), "the viewer makes a difference"
