"""Backbones: what each may see."""

from __future__ import annotations

import pytest
import torch

from mealrec.model.backbone import BACKBONES, backbone
from mealrec.model.layers import Dropout

CAUSAL = [name for name, kind in BACKBONES.items() if kind.causal]


def made(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return backbone(name, width=16, max_history=8, layers=2, heads=2, dropout=0.0).eval()


@pytest.mark.parametrize("name", CAUSAL)
def test_a_state_does_not_see_later_items(name: str) -> None:
    model, mask = made(name), torch.ones(2, 6, dtype=torch.bool)
    z = torch.randn(2, 6, 16)
    later = z.clone()
    later[:, 4:] += torch.randn(2, 2, 16)
    assert torch.allclose(model(z, mask)[:, :4], model(later, mask)[:, :4], atol=1e-6)
    assert not torch.allclose(model(z, mask)[:, 4], model(later, mask)[:, 4], atol=1e-3)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_padding_before_a_history_changes_nothing(name: str) -> None:
    model, z = made(name), torch.randn(2, 5, 16)
    longer = torch.cat([torch.zeros(2, 3, 16), z], 1)
    mask = torch.ones(2, 5, dtype=torch.bool)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.bool), mask], 1)
    assert torch.allclose(model(z, mask)[:, -1], model(longer, padded)[:, -1], atol=1e-5)
    assert float(model(longer, padded)[:, :3].abs().max()) == 0.0


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_newest_state_alone_is_the_last_of_all(name: str) -> None:
    model, z = made(name), torch.randn(4, 6, 16)
    mask = torch.arange(6) >= torch.tensor([0, 2, 5, 6])[:, None]  # the last viewer has watched nothing
    newest = model.newest(z * mask[..., None], mask)
    assert torch.allclose(newest, model(z * mask[..., None], mask)[:, -1], atol=1e-6)
    assert float(newest[-1].detach().abs().max()) == 0.0


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_history_of_nothing_gives_finite_states(name: str) -> None:
    states = made(name)(torch.zeros(1, 3, 16), torch.zeros(1, 3, dtype=torch.bool))
    assert bool(torch.isfinite(states).all())


def test_bert4rec_never_sees_the_item_it_is_trained_to_name() -> None:
    model = made("bert4rec").train()
    z, mask = torch.randn(4, 6, 16), torch.ones(4, 6, dtype=torch.bool)
    first = model.train_states(z, mask, torch.Generator().manual_seed(3))
    assert bool(first.trained[:, -1].all()) and 0 < int(first.trained[:, :-1].sum()) < 20
    for row, at in first.trained[:, :-1].nonzero().tolist():
        changed = z.clone()
        changed[row, at + 1] += 5 * torch.randn(16)  # the target of position `at`
        again = model.train_states(changed, mask, torch.Generator().manual_seed(3))
        assert torch.allclose(first.states[row, at], again.states[row, at], atol=1e-6)
    seen = z.clone()
    seen[0, 0] += 5 * torch.randn(16)
    other = model.train_states(seen, mask, torch.Generator().manual_seed(3))
    assert not torch.allclose(first.states[0, -1], other.states[0, -1], atol=1e-3)


def test_an_unknown_backbone_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="valid: sasrec, gru4rec, bert4rec, nextitnet"):
        made("caser")


def test_dropout_drops_its_share_keeps_the_mean_and_is_the_same_for_a_seed() -> None:
    drop = Dropout(0.3)
    torch.manual_seed(1)
    out = drop(torch.ones(999, 1001))
    torch.manual_seed(1)
    assert torch.equal(out, drop(torch.ones(999, 1001)))
    zero = out == 0
    assert abs(float(zero.float().mean()) - 0.3) < 0.005 and abs(float(out.mean()) - 1) < 0.005
    # eight decisions come from one random number: each must be as likely, and unrelated to its neighbour
    flat = zero.reshape(-1)[:999_992].view(-1, 8).float()
    assert float((flat.mean(0) - 0.3).abs().max()) < 0.01
    assert float(torch.corrcoef(flat.T).fill_diagonal_(0).abs().max()) < 0.02
    assert torch.equal(drop.eval()(torch.ones(5)), torch.ones(5))
    with pytest.raises(ValueError, match="not in"):
        Dropout(1.0)
