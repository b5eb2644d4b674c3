"""Sizes rounded up: steps of other sizes have the same products, and what is added for that changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mealrec.data.packed import Packed
from mealrec.model.backbone import backbone
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.model.sizes import FEW, PROGRAMS, ROWS, behind_zeros, over_zeros, places, repeated
from mealrec.training import step
from mealrec.training.candidates import everything
from mealrec.training.facts import catalogue_facts
from mealrec.training.loop import State
from mealrec.training.settings import TrainSettings
from mealrec.training.step import Inputs, LossWeights, distinct, joint_loss, warmup_loss


class Products(TorchDispatchMode):
    """Shapes of the products that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[Any, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.split(".")[0] in ("mm", "addmm", "bmm", "addmm_"):
            self.shapes.add((func.__name__, *(tuple(a.shape) for a in args if isinstance(a, Tensor))))
        return func(*args, **kwargs or {})


def inputs_of(packed: Packed, viewers: int, seed: int) -> Inputs:
    """Histories of four videos."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randperm(packed.items, generator=generator)[:5] + 1 for _ in range(viewers)])
    history, target = rows[:, :-1], rows[:, 1:]
    videos = behind_zeros(distinct(history, target))
    candidates = everything(torch.arange(packed.items + 1))
    return Inputs(history, target, candidates, catalogue_facts(packed), videos, packed.content.gather(videos))


def state_of(packed: Packed, **settings: Any) -> State:
    torch.manual_seed(0)
    shape = ModelSettings(**packed.content.dims, width=16, max_history=4, **settings)  # corrupted ones are as long
    return State.fresh(MealRec(shape), TrainSettings())


def products_of(packed: Packed, viewers: int, seed: int, loss: Callable[..., step.Losses], **settings: Any) -> set[Any]:
    state, inputs = state_of(packed, **settings), inputs_of(packed, viewers, seed)
    networks = (state.model, state.teacher) if loss is joint_loss else (state.model,)
    with Products() as seen:
        rng = torch.Generator().manual_seed(seed)
        loss(*networks, inputs, LossWeights(), 200.0, rng).total.backward()  # type: ignore[no-untyped-call]
    assert len(seen.shapes) > 10
    return seen.shapes


@pytest.mark.parametrize("personal", ["pooling", "denoiser"])
def test_joint_steps_of_other_sizes_have_the_same_products(packed: Packed, personal: str) -> None:
    one, other = (products_of(packed, viewers, viewers, joint_loss, personal=personal) for viewers in (52, 61))
    assert one == other


def test_warm_up_steps_of_other_sizes_have_the_same_products(packed: Packed) -> None:
    one, other = (products_of(packed, viewers, viewers, warmup_loss) for viewers in (52, 61))
    assert one == other


def test_videos_in_front_that_nobody_watched_change_no_history(packed: Packed) -> None:
    model = state_of(packed, dropout=0.0, condition_dropout=0.0, id_dropout=0.0).model.train()
    inputs = inputs_of(packed, 37, 1)
    videos = distinct(inputs.history, inputs.target)
    bare = inputs._replace(videos=videos, content=packed.content.gather(videos))
    assert len(videos) < len(inputs.videos)
    found = []
    for given in (inputs, bare):
        assert given.content is not None
        rng = torch.Generator().manual_seed(1)
        found.append(step._encode_history(model, given, model.scene(given.content), rng, None)[0].z)
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_rows_that_are_nobodys_video_cost_no_diffusion_loss(packed: Packed) -> None:
    model, inputs = state_of(packed).model, inputs_of(packed, 37, 1)
    nobody = torch.zeros(5, dtype=torch.int64)
    given = inputs._replace(videos=nobody, content=packed.content.gather(nobody), share=None)
    assert given.content is not None
    assert float(step._diffusion(model, given, model.scene(given.content), torch.Generator().manual_seed(1))) == 0.0


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_viewers_below_change_nobodys_states(name: str) -> None:
    torch.manual_seed(0)
    model = backbone(name, width=16, max_history=8, layers=2, heads=2, dropout=0.0)
    z, mask = torch.randn(FEW + 5, 6, 16), torch.rand(FEW + 5, 6) < 0.8
    one_by_one = torch.cat([model(z[at : at + 1], mask[at : at + 1]) for at in range(len(z))])
    assert torch.allclose(model(z, mask), one_by_one, atol=1e-6)


def test_rounding_keeps_what_is_there() -> None:
    assert behind_zeros(torch.tensor([3, 7]), 4).tolist() == [0, 0, 3, 7]
    assert repeated(torch.tensor([3, 7]), 4).tolist() == [3, 7, 3, 3]
    assert len(repeated(torch.tensor([], dtype=torch.int64))) == 0
    assert over_zeros(torch.ones(3, 2), 4).tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    at, count = places(torch.tensor([[False, True], [True, True]]))
    assert (at[:3].tolist(), len(at), count) == ([1, 2, 3], ROWS, 3)
    full = torch.ones(2, ROWS, dtype=torch.bool)
    assert len(places(full)[0]) == 2 * ROWS


def test_onednn_is_told_how_many_programs_to_keep() -> None:
    assert int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) >= PROGRAMS
