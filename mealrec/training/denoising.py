"""What NPD learns from: the same history corrupted (model.md 2.8), seen by the denoiser or, without one, by the backbone.

A denoiser before the backbone is trained alone: its losses reach nothing else. Trained through the backbone it kept a
smaller share of its hits and the backbone lost clean accuracy. The backbone stays in training mode: without dropout it knows
its training histories by heart, and every item that it has not learned looks like a stranger (benchmarks/LOG.md). Imports
torch alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mealrec.model.corruption import Corrupted, Draw, corrupt, description
from mealrec.model.divergence import Ranking, divergence
from mealrec.model.layers import spread
from mealrec.model.mealrec import History, MealRec
from mealrec.model.npd import PreferenceDenoiser
from mealrec.model.sizes import places
from mealrec.training.candidates import Candidates


class Clean(NamedTuple):
    """What is corrupted, and what it should be recovered to: the history in vectors, the same stripped of modalities
    [B, L, D], items and targets [B, L]."""

    history: History
    stripped: Tensor
    items: Tensor
    target: Tensor


class Reference(NamedTuple):
    """The averaged model's view: candidates' vectors [C, D] and its states [B, L, D] on the clean history."""

    vectors: Tensor
    states: Tensor


class Recovery(NamedTuple):
    """Losses per trained place: cross-entropy of the next item, divergence from the averaged model's preference on the clean
    history, and cross-entropy of how much of each item is noise (0 where no denoiser estimates it).

    Means over this worker's places, which count by its share of the step's positions, and not over all workers': which places
    are trained is drawn by each for itself, so their number over all would take another communication a step. A place of a
    worker that drew fewer of them counts a little more; with one worker nothing differs."""

    next_item: Tensor
    divergence: Tensor
    noise: Tensor


def is_before(model: MealRec) -> bool:
    """Whether NPD stands before the backbone."""
    return isinstance(model.npd, PreferenceDenoiser) and model.settings.npd in ("blind", "told")


def corrupted_history(clean: Clean, drawn: Draw, longest: int, rng: torch.Generator) -> Corrupted:
    """The drawn corruptions of a step's histories, each with strangers from the others."""
    z, mask = clean.history.z, clean.history.mask
    return corrupt(z, mask, drawn, strangers(z, mask, rng), clean.stripped, longest, rng)


def strangers(z: Tensor, mask: Tensor, rng: torch.Generator) -> Tensor:
    """For every place [B, L, D] an item of another viewer of the step, histories left-padded: a popular video is drawn as
    often as it is watched, and its vector was made as those around it were, so that nothing but its being out of place tells
    it from them (vectors of the catalogue, which no viewer weighed, could be told by that). A step of one viewer has only
    its own items."""
    viewers, length = mask.shape
    device = mask.device
    step = torch.randint(0, max(viewers - 1, 1), mask.shape, generator=rng, device=device) + 1
    other = (torch.arange(viewers, device=device)[:, None] + step) % viewers
    back = torch.rand(mask.shape, generator=rng, device=device) * mask.sum(1)[other]
    return z[other, length - 1 - back.long()]


def reference(
    teacher: MealRec, vectors: Tensor, clean: Clean, candidates: Candidates, available: Tensor, log_popularity: Tensor
) -> Reference:
    """The averaged model on the clean history with every ID; vectors [C, D] are its own, available and log_popularity those
    of the candidates."""
    mask = clean.history.mask
    at, m = places(mask)
    items = clean.items.flatten()[at]
    rows = candidates.rows(items)
    z = teacher.id_vectors(items, log_popularity[rows])
    if teacher.settings.content:
        described = clean.history.described.detach().flatten(0, 1)[at]
        z = teacher.fusion(z, described, available[rows], log_popularity[rows])
    return Reference(vectors, teacher.backbone(spread(z[:m], mask), mask))


def before_backbone(
    model: MealRec,
    vectors: Tensor,
    seen: Reference,
    clean: Clean,
    noisy: Corrupted,
    drawn: Draw,
    candidates: Candidates,
) -> Recovery:
    """Losses of a denoiser before the backbone. It reads items on both sides, so the newest place alone is trained."""
    assert isinstance(model.npd, PreferenceDenoiser)
    z, mask = noisy.z.detach(), noisy.mask
    before, after = model.contexts(z, mask)
    newest = torch.zeros_like(mask)
    newest[:, -1] = True
    at, m = places(mask)  # those that hold something: a third and more is padding
    told = description(drawn)[at // mask.shape[1]] if model.settings.npd == "told" else None
    vectors_there, before, after = (part.flatten(0, 1)[at] for part in (z, before, after))
    residual, level = model.npd.at(vectors_there, before, after, newest.flatten()[at], told)
    residual, level = residual[:m], level[:m]
    trained = newest & _trainable(noisy, clean)
    backbone = {name: p.detach() for name, p in model.backbone.named_parameters()}
    states = functional_call(model.backbone, backbone, (z + spread(residual, mask), mask))
    noise = F.binary_cross_entropy_with_logits(level, noisy.noise[mask], reduction="sum")
    noise = noise / mask.sum().clamp(min=1)  # a step's only rows may have lost all their items
    return _recovery(model, states, vectors.detach(), seen, clean, noisy, trained, candidates)._replace(noise=noise)


def behind_backbone(
    model: MealRec,
    vectors: Tensor,
    seen: Reference,
    clean: Clean,
    noisy: Corrupted,
    candidates: Candidates,
    rng: torch.Generator,
) -> Recovery:
    """Losses of the backbone on corrupted histories, with the denoiser of the specification behind it or with none (A6)."""
    described = clean.history.described
    described = described.gather(1, noisy.place[..., None].expand(-1, -1, described.shape[-1]))
    held = History(noisy.z, described, noisy.mask)
    states, can_train = model.backbone.train_states(held.z, held.mask, rng)
    if model.settings.npd == "state":
        states = model.denoise_states(states, held)
    return _recovery(model, states, vectors, seen, clean, noisy, can_train & _trainable(noisy, clean), candidates)


def _trainable(noisy: Corrupted, clean: Clean) -> Tensor:
    return noisy.mask & noisy.trusted & (clean.target.gather(1, noisy.place) > 0)


def _recovery(
    model: MealRec,
    states: Tensor,
    vectors: Tensor,
    seen: Reference,
    clean: Clean,
    noisy: Corrupted,
    trained: Tensor,
    candidates: Candidates,
) -> Recovery:
    """Preferences are distributions over candidates, so what is recovered is the ranking and not one direction of the state:
    KL(averaged model's preference on the clean history || recovered preference)."""
    place, count = noisy.place[trained], trained.sum().clamp(min=1)
    viewer = trained.nonzero()[:, 0]
    temperature = model.settings.temperature
    next_item = candidates.loss(states[trained], vectors, clean.target[viewer, place], temperature) / count
    wanted = Ranking(seen.states[viewer, place] / temperature, seen.vectors)
    away = divergence(wanted, Ranking(states[trained] / temperature, vectors)) / count
    return Recovery(next_item, away, next_item.new_zeros(()))
