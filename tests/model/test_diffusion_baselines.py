"""The diffusion recommenders learn a small world, and each keeps what its paper is about.

The world: six rings of ten videos; a viewer starts anywhere in a ring and walks from each video to the next one. Popularity
knows nothing of rings; a model of sets can find the ring, a model of sequences the very next video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mealrec.model.baselines.dcrec import DCRec
from mealrec.model.baselines.diffrec import (
    DiffRec,
    LDiffRec,
    LinearVariance,
    TDiffRec,
    content_clusters,
    recency_vector,
    seen_vector,
)
from mealrec.model.baselines.dreamrec import DreamRec
from mealrec.model.baselines.ld4mrec import LD4MRec, mean_of
from mealrec.model.baselines.protocol import Facts, Trainable
from mealrec.model.softmax import Negatives

RINGS, RING, LENGTH = 6, 10, 5
ITEMS = RINGS * RING

Build = Callable[[Facts], Trainable]
SETS: dict[str, Build] = {
    "DiffRec": lambda facts: DiffRec(facts, width=32, dropout=0.3),
    "TDiffRec": lambda facts: TDiffRec(facts, width=32, dropout=0.3),
    "LDiffRec": lambda facts: LDiffRec(facts, width=32, latent=8, dropout=0.3),
    "LD4MRec": lambda facts: LD4MRec(facts, width=32, dropout=0.3),
}
SEQUENCES: dict[str, Build] = {
    "DreamRec": lambda facts: DreamRec(facts, max_history=8, width=32, layers=1, dropout=0.1),
    "DCRec": lambda facts: DCRec(facts, max_history=8, width=32, layers=1, dropout=0.1),
}
ALL = SETS | SEQUENCES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def walks(viewers: int, seed: int) -> Tensor:
    """Walks [viewers, LENGTH + 1] of items 1..60, each inside a ring; ring 0 is three times as popular as the others."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.tensor([3.0] + [1.0] * (RINGS - 1))
    ring = torch.multinomial(weight, viewers, replacement=True, generator=rng)
    start = torch.randint(RING, (viewers,), generator=rng)
    return ring[:, None] * RING + (start[:, None] + torch.arange(LENGTH + 1)) % RING + 1


def facts(*, content: bool = True) -> Facts:
    rng = torch.Generator().manual_seed(1)
    counts = torch.bincount(walks(600, 0).reshape(-1), minlength=ITEMS + 1)
    topic = torch.eye(RINGS).repeat_interleave(RING, 0) + 0.1 * torch.randn(ITEMS, RINGS, generator=rng)
    vectors = torch.cat([torch.zeros(1, RINGS), topic]) if content else torch.zeros(ITEMS + 1, 0)
    return Facts(counts, vectors, torch.arange(ITEMS + 1) > 0 if content else torch.zeros(ITEMS + 1, dtype=torch.bool))


def built(build: Build, known: Facts | None = None) -> Trainable:
    torch.manual_seed(0)
    return build(known or facts()).eval()


def trained(build: Build, *, steps: int) -> Trainable:
    model = built(build).train()
    rng = torch.Generator().manual_seed(2)
    data = walks(600, 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        batch = data[torch.randint(len(data), (64,), generator=rng)]
        loss, count = model.loss(batch[:, :-1], batch[:, 1:], rng)
        optimiser.zero_grad()
        torch.autograd.backward(loss / count)
        optimiser.step()
    return model.eval()


def mean_rank(scores: Tensor, history: Tensor, target: Tensor) -> float:
    """Mean rank of the target (1: best) among the videos not in the history; ties count half."""
    scores = scores.double().scatter(1, history, -torch.inf)[:, 1:]
    own = scores.gather(1, target[:, None] - 1)
    return float(1 + ((scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2).mean())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("content", [True, False])
def test_scores_are_finite_deterministic_and_blind_to_padding(name: str, content: bool) -> None:
    model = built(ALL[name], facts(content=content))
    history = walks(4, 5)[:, :LENGTH]
    history[0] = 0  # nothing known of this viewer
    history[1, :3] = 0
    with torch.no_grad():
        first = model.scores(history)
        torch.manual_seed(99)
        again = model.scores(history)
        padded = model.scores(torch.cat([torch.zeros(4, 7, dtype=torch.int64), history], 1))
        alone = model.scores(history[2:3])
    assert first.shape == (4, ITEMS + 1)
    assert bool(first[:, 1:].isfinite().all())
    assert torch.equal(first, again)
    torch.testing.assert_close(padded, first, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, first[2:3], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first[2], first[3])


@pytest.mark.parametrize("name", ALL)
def test_loss_repeats_with_its_generator_and_reaches_every_parameter(name: str) -> None:
    model = built(ALL[name])
    batch = walks(32, 6)
    batch[0, :4] = 0
    losses = [
        model.loss(batch[:, :-1], batch[:, 1:] * (batch[:, :-1] > 0), torch.Generator().manual_seed(s))
        for s in (3, 3, 4)
    ]
    first, same, other = (float(summed.loss.detach()) for summed in losses)
    assert first == same != other
    assert losses[0].targets == (32 if name in SETS else 31 * LENGTH + 1)
    torch.autograd.backward(losses[0].loss)
    for parameter, value in model.named_parameters():
        assert value.grad is not None and bool(value.grad.isfinite().all()), parameter
        assert float(value.grad.abs().sum()) > 0, parameter


@pytest.mark.parametrize("name", ALL)
def test_a_batch_without_targets_costs_nothing(name: str) -> None:
    empty = torch.zeros(0, 1, dtype=torch.int64)
    loss, count = built(ALL[name]).loss(empty, empty, torch.Generator())
    assert (float(loss.detach()), count) == (0.0, 0)


@pytest.mark.parametrize("name", SEQUENCES)
def test_sampled_candidates_are_used(name: str) -> None:
    known = facts()
    sampled = Facts(known.counts, known.content, known.has_content, Negatives.by_popularity(known.counts, 20))
    batch = walks(16, 6)
    full, some = (
        float(
            built(SEQUENCES[name], f).loss(batch[:, :-1], batch[:, 1:], torch.Generator().manual_seed(3)).loss.detach()
        )
        for f in (known, sampled)
    )
    assert full != some


@pytest.mark.parametrize("name", ALL)
def test_training_beats_popularity(name: str) -> None:
    model = trained(ALL[name], steps=250 if name in SETS else 120)
    fresh = walks(200, 7)
    history, target = fresh[:, :LENGTH], fresh[:, LENGTH]
    popularity = mean_rank(facts().counts.expand(len(fresh), -1), history, target)
    with torch.no_grad():
        rank = mean_rank(model.scores(history), history, target)
    # five videos of the ring are left: 3 on average says "the ring", near 1 says "the very next one"
    assert popularity > 12
    assert rank < (3.5 if name in SETS else 1.5), rank


@pytest.mark.parametrize("name", SETS)
def test_sets_are_trained_on_the_newest_item_too(name: str) -> None:
    model, batch = built(SETS[name]), walks(8, 6)
    other = batch.clone()
    other[:, -1] = 60
    one, two = (model.loss(b[:, :-1], b[:, 1:], torch.Generator().manual_seed(3)).loss for b in (batch, other))
    assert float(one.detach()) != float(two.detach())


def test_seen_vector_marks_the_set_and_never_padding() -> None:
    x = seen_vector(torch.tensor([[0, 2, 2, 3], [0, 0, 0, 0]]), 4)
    assert x.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]


def test_recency_weights_rise_to_the_newest_item() -> None:
    items = torch.tensor([[0, 1, 4, 2], [0, 0, 0, 3], [1, 2, 3, 1], [0, 0, 0, 0]])
    x = recency_vector(items, 4, 0.2, 1.0)
    expected = [[0, 0.2, 1.0, 0, 0.6], [0, 0, 0, 1, 0], [0, 1, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 0], [0, 0, 0, 0, 0]]
    torch.testing.assert_close(x, torch.tensor(expected))


def test_tdiffrec_minds_order_and_diffrec_does_not() -> None:
    history = walks(3, 5)[:, :LENGTH]
    with torch.no_grad():
        plain, timed = built(SETS["DiffRec"]), built(SETS["TDiffRec"])
        torch.testing.assert_close(plain.scores(history), plain.scores(history.flip(1)))
        assert not torch.allclose(timed.scores(history), timed.scores(history.flip(1)))


def test_linear_variance_is_the_closed_form_and_reverse_recovers_a_known_clean_vector() -> None:
    noise = LinearVariance(4, scale=0.5, least=0.1, most=0.9)
    torch.testing.assert_close(noise.sigma.square(), 0.5 * torch.tensor([0, 0.1, 0.1 + 0.8 / 3, 0.1 + 1.6 / 3, 0.9]))
    torch.testing.assert_close(noise.signal.square() + noise.sigma.square(), torch.ones(5))
    clean = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    drawn = noise.noised(clean.repeat(4000, 1), torch.full((12000,), 4), torch.Generator().manual_seed(1))
    assert float((drawn - noise.signal[4] * clean.repeat(4000, 1)).std()) == pytest.approx(0.45**0.5, rel=0.02)
    # the posterior mean of q(y_3 | y_4, x) keeps a noiseless y noiseless
    torch.testing.assert_close(
        noise.to_clean[4] * clean + noise.to_noisy[4] * noise.signal[4] * clean, noise.signal[3] * clean
    )
    torch.testing.assert_close(noise.reverse(lambda y, t: clean, torch.zeros(3, 6), 4), clean)


def test_settings_that_mean_nothing_are_refused() -> None:
    for build in (
        lambda: DiffRec(facts(), steps=3, start=4),
        lambda: DiffRec(facts(), noise_scale=10.0, noise_max=0.5),
        lambda: TDiffRec(facts(), w_min=2.0),
        lambda: DreamRec(facts(), steps=4, sampling_steps=5),
    ):
        with pytest.raises(ValueError, match=r"start|scale|w_min|sampling"):
            build()


def test_diffrec_sampling_noise_changes_scores_and_is_fixed() -> None:
    history = walks(3, 5)[:, :LENGTH]
    with torch.no_grad():
        mean, noisy = built(lambda f: DiffRec(f)), built(lambda f: DiffRec(f, sampling_noise=True))
        assert not torch.equal(mean.scores(history), noisy.scores(history))
        torch.testing.assert_close(noisy.scores(history)[:1], noisy.scores(history[:1]))


def test_clusters_follow_content_and_cover_the_catalogue_once() -> None:
    groups = content_clusters(facts(), RINGS)
    assert sorted(torch.cat(groups).tolist()) == list(range(1, ITEMS + 1))
    assert sorted(sorted(g.tolist()) for g in groups) == [
        list(range(1 + r * RING, 1 + (r + 1) * RING)) for r in range(RINGS)
    ]
    known = facts()
    known.has_content[[3, 40]] = False
    assert [3, 40] in [g.tolist() for g in content_clusters(known, RINGS)]
    assert [len(g) for g in content_clusters(facts(content=False), 4)] == [ITEMS]


def test_ldiffrec_decodes_a_cluster_from_its_own_latents() -> None:
    model = built(lambda f: LDiffRec(f, latent=4, clusters=RINGS))
    assert isinstance(model, LDiffRec)
    z = torch.zeros(1, 4 * RINGS)
    moved = z.clone()
    moved[0, 4:8] = 1
    with torch.no_grad():
        changed = (model.decode(moved) - model.decode(z))[0].nonzero()[:, 0]
    assert changed.tolist() == content_clusters(facts(), RINGS)[1].tolist()


def test_mean_of_counts_what_it_is_told_and_survives_nothing() -> None:
    table = torch.tensor([[9.0], [1.0], [3.0], [7.0]])
    items = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]])
    assert mean_of(table, items, (items > 0) & (items < 3)).tolist() == [[2.0], [0.0]]


def test_ld4mrec_scores_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(SETS["LD4MRec"])
    assert isinstance(model, LD4MRec)
    entered: list[Tensor] = []
    model.denoiser.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("noise was drawn")

    for name in ("randn", "rand", "randn_like", "normal"):
        monkeypatch.setattr(torch, name, refuse)
    history = walks(3, 5)[:, :LENGTH]
    with torch.no_grad():
        model.scores(history)
    assert torch.equal(entered[0], seen_vector(history, ITEMS))


def test_ld4mrec_is_guided_by_content_and_by_behaviour() -> None:
    model = built(SETS["LD4MRec"])
    assert isinstance(model, LD4MRec)
    history = walks(3, 5)[:, :LENGTH]
    with torch.no_grad():
        before = model.scores(history)
        model.content[history[0]] = model.content[history[0]].roll(1, -1)
        other_content = model.scores(history)
        model.ids.weight[history[0]] += 1
        other_behaviour = model.scores(history)
    assert not torch.allclose(before[0], other_content[0])
    assert not torch.allclose(other_content[0], other_behaviour[0])


def test_dcrec_both_conditions_reach_the_target_and_later_items_do_not() -> None:
    model = built(SEQUENCES["DCRec"])
    assert isinstance(model, DCRec)
    rng = torch.Generator().manual_seed(0)
    noised, valid = torch.randn(1, LENGTH + 1, 32, generator=rng), torch.ones(1, LENGTH + 1, dtype=torch.bool)
    history, t = walks(1, 5)[:, :LENGTH], torch.tensor([20])
    place = 2
    with torch.no_grad():
        plain = model.denoise(noised, valid, history, t)[0]
        for explicit in (True, False):
            other, moved = history.clone(), noised.clone()
            if explicit:
                other[0, place] = 60
            else:
                moved[0, place] += torch.randn(32, generator=rng)
            changed = (model.denoise(moved, valid, other, t)[0] - plain).abs().amax(-1) > 1e-5
            # a place's own clean item is its answer: it may be seen from the next place on, its noised form at once
            first = place + 1 if explicit else place
            assert changed.tolist() == [p >= first for p in range(LENGTH + 1)]


def test_dcrec_history_matters_and_the_target_slot_is_free_of_the_target() -> None:
    model = built(SEQUENCES["DCRec"])
    assert isinstance(model, DCRec)
    noised: list[Tensor] = []
    first_layer = model.explicit[0]
    first_layer.register_forward_pre_hook(lambda _, inputs: noised.append(inputs[0][:, -1]))
    history = walks(2, 5)[:, :LENGTH]
    with torch.no_grad():
        scores = model.scores(history)
        other = history.clone()
        other[:, 0] = 60
        assert not torch.allclose(scores, model.scores(other))
    # at the first step the target's place holds the same noise whoever watches
    assert torch.equal(noised[0][0], noised[0][1])


def test_long_histories_count_by_their_newest_items() -> None:
    history = torch.arange(1, 21)[None]
    for build in SEQUENCES.values():
        model = built(build)
        with torch.no_grad():
            torch.testing.assert_close(model.scores(history), model.scores(history[:, -8:]))


def test_dreamrec_guidance_weighs_the_state_against_none() -> None:
    history = walks(3, 5)[:, :LENGTH]
    history[0] = 0
    with torch.no_grad():
        model = DreamRec(facts(), max_history=8).eval()
        model.unguided.copy_(torch.randn(64, generator=torch.Generator().manual_seed(0)))
        model.guidance = 0.0
        plain = model.scores(history)
        model.guidance = 2.0
        guided = model.scores(history)
    torch.testing.assert_close(plain[0], guided[0])  # without a history both passes are the same
    assert not torch.allclose(plain[1:], guided[1:])
