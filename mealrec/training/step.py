"""The losses of one step (model.md section 3). Imports torch alone; randomness comes from the generator it is given.

Stages: S0 `warmup` trains IDs, backbone and content with the plain mean of each video's tokens (for the ID-only model, IDs and
backbone); S1 `joint` trains everything with TCD and NPD. All positions of a history are trained at once; each distinct
video of a step is tokenised once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mealrec.model import corruption
from mealrec.model.content import TEXT, Content
from mealrec.model.layers import spread
from mealrec.model.mealrec import History, MealRec
from mealrec.model.sizes import FEW, behind_zeros, places, repeated
from mealrec.model.summary import Summary
from mealrec.model.tcd import Scene
from mealrec.training.candidates import Candidates
from mealrec.training.denoising import Clean, before_backbone, behind_backbone, corrupted_history, is_before, reference


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective; `next_item` is CE on the denoised state and always 1."""

    plain: float = 0.5  # CE(h, y) beside CE(hhat, y); 1 where the denoiser learns alone
    tcd: float = 0.1
    npd: float = 0.5  # divergence of the recovered preference from the EMA teacher's on the clean history
    noise: float = 1.0  # CE of how much of each item is noise, which NPD estimates
    reverse: float = 0.5  # CE of the item before, with the window read backwards
    candidate_dropout: float = 0.15  # share of candidates known by their content alone, as a new video is


@dataclass(frozen=True)
class Catalogue:
    """What scoring needs of all videos [N + 1, ...]: means of their frame features, titles, what is available, training
    popularity, and item-mode pooled tokens v [N + 1, D] as of the epoch's start (None in the warm-up, which has no TCD).
    Means and titles of a whole catalogue lie on disk (mealrec.training.facts).

    v is constant within an epoch for every video alike; the content MLP, gates and IDs are live for every video. Were v
    live for the videos of a step and cached for the others, a common drift of the live ones would mark the targets (they
    are always among them) and the loss would fall without anything learned: measured, see benchmarks/LOG.md.
    """

    summary: Summary
    text: Tensor
    has_frames: Tensor
    available: Tensor
    log_popularity: Tensor
    popularity: Tensor
    pooled: Tensor | None = None

    def rows(self, index: Tensor) -> Catalogue:
        """A copy of these rows, on index's device."""
        return Catalogue(
            Summary(_taken(self.summary.visual, index), _taken(self.summary.audio, index)),
            _taken(self.text, index),
            self.has_frames[index],
            self.available[index],
            self.log_popularity[index],
            self.popularity[index],
            None if self.pooled is None else self.pooled[index],
        )


def _taken(mapped: Tensor, index: Tensor) -> Tensor:
    """Rows of what may lie on disk, as float32 on index's device."""
    return mapped[index.to(mapped.device)].to(index.device).float()


class Inputs(NamedTuple):
    """One step's tensors: history, target [B, L]; candidates and their part of the catalogue; videos [U], the distinct items
    of both history and target, sorted, behind some zeros (mealrec.model.sizes), and their content (None in the warm-up); share
    [U]: how much of each is this worker's to count (mealrec.data.batches.Batch)."""

    history: Tensor
    target: Tensor
    candidates: Candidates
    catalogue: Catalogue
    videos: Tensor
    content: Content | None
    share: Tensor | None = None


PARTS = ("divergence", "next_item", "noise", "plain", "reverse", "tcd")  # of the losses, as they are logged


class Losses(NamedTuple):
    """total: sums over positions divided by `positions` (a global count, so that workers' gradients add up exactly);
    parts: detached sums for the log."""

    total: Tensor
    parts: dict[str, float]


def distinct(history: Tensor, target: Tensor) -> Tensor:
    """Distinct item indices of a batch, padding left out."""
    videos: Tensor = torch.unique(torch.cat([history.reshape(-1), target.reshape(-1)]))
    return videos[videos > 0]


def warmup_loss(model: MealRec, inputs: Inputs, weights: LossWeights, positions: float, rng: torch.Generator) -> Losses:
    """S0: next-item cross-entropy with plain vectors, forwards and backwards."""
    described, vectors = _candidate_vectors(model, inputs, weights, rng)
    clean = _plain_history(model, inputs, described, rng)
    loss = _next_item(model, clean, vectors, inputs, rng) / positions
    parts = {"next_item": float(loss.detach())}
    if weights.reverse:
        before = _reverse(model, inputs, described, vectors, rng) / positions
        loss, parts["reverse"] = loss + weights.reverse * before, float(before.detach())
    return Losses(loss, parts)


def joint_loss(
    model: MealRec, teacher: MealRec, inputs: Inputs, weights: LossWeights, positions: float, rng: torch.Generator
) -> Losses:
    """S1: plain CE(h, y) + TCD + what NPD learns from corrupted histories."""
    assert inputs.content is not None
    scene = model.scene(inputs.content)
    drawn = corruption.draw(inputs.history.shape[0], rng) if model.settings.npd != "off" else None
    clean, stripped = _encode_history(model, inputs, scene, rng, drawn)
    described, vectors = _candidate_vectors(model, inputs, weights, rng)
    tcd = _diffusion(model, inputs, scene, rng) / positions
    plain = _next_item(model, clean, vectors, inputs, rng) / positions
    parts = {"plain": float(plain.detach()), "tcd": float(tcd.detach())}
    rest = weights.tcd * tcd
    if weights.reverse:
        before = _reverse(model, inputs, described, vectors, rng) / positions
        rest, parts["reverse"] = rest + weights.reverse * before, float(before.detach())
    if drawn is None:
        return Losses(plain + rest, parts)
    recovery, found = _recovery(
        model, teacher, Clean(clean, stripped, inputs.history, inputs.target), inputs, vectors, drawn, weights, rng
    )
    own = (
        1.0 if is_before(model) else weights.plain
    )  # around a denoiser that learns alone, nothing else trains the model
    part = (inputs.target > 0).sum() / positions  # of all workers' positions
    total = recovery * part + own * plain + rest
    return Losses(total, parts | {name: value * float(part) for name, value in found.items()})


def _recovery(
    model: MealRec,
    teacher: MealRec,
    clean: Clean,
    inputs: Inputs,
    vectors: Tensor,
    drawn: corruption.Draw,
    weights: LossWeights,
    rng: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """NPD's objective per trained place, and its parts."""
    facts, candidates = inputs.catalogue, inputs.candidates
    noisy = corrupted_history(clean, drawn, model.settings.max_history, rng)
    with torch.no_grad():
        own = catalogue_vectors(teacher, facts, candidates.items)[1]
        seen = reference(teacher, own, clean, candidates, facts.available, facts.log_popularity)
    if is_before(model):
        found = before_backbone(model, vectors, seen, clean, noisy, drawn, candidates)
    else:
        found = behind_backbone(model, vectors, seen, clean, noisy, candidates, rng)
    total = found.next_item + weights.noise * found.noise
    if model.settings.npd != "augment":
        total = total + weights.npd * found.divergence
    return total, {name: float(part.detach()) for name, part in found._asdict().items()}


def _candidate_vectors(
    model: MealRec, inputs: Inputs, weights: LossWeights, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Described content and vectors [C, D] of the step's candidates, some of them without their ID."""
    lost = None
    if weights.candidate_dropout and model.settings.content:
        count = len(inputs.candidates.items)
        lost = torch.rand(count, generator=rng, device=inputs.history.device) < weights.candidate_dropout
    return catalogue_vectors(model, inputs.catalogue, inputs.candidates.items, lost)


def catalogue_vectors(
    model: MealRec, catalogue: Catalogue, items: Tensor, lost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Described content and item-mode vectors zbar [n, D] of `items` [n], catalogue holding those rows; lost [n]: items to be
    treated as if they had no trained ID."""
    has_text = catalogue.available[:, TEXT]
    if not model.settings.content or catalogue.pooled is None:
        described = model.described_plain(catalogue.summary, catalogue.text, catalogue.has_frames, catalogue.available)
    else:
        described = model.fusion.describe(catalogue.pooled, catalogue.text, catalogue.has_frames, has_text)
    popularity = catalogue.log_popularity if lost is None else torch.where(lost, 0.0, catalogue.log_popularity)
    ids = model.id_vectors(items, popularity)
    if not model.settings.content:
        return described, ids
    return described, model.fusion(ids, described, catalogue.available, popularity)


def _reverse(model: MealRec, inputs: Inputs, described: Tensor, vectors: Tensor, rng: torch.Generator) -> Tensor:
    """Summed loss of predicting the item before each one, the window read from its newest item to its oldest.

    What was watched together says something in both directions; a learned vector tells the backbone which one it reads."""
    window = torch.cat([inputs.history, inputs.target[:, -1:]], 1).flip(1)
    window = window.gather(1, torch.argsort((window > 0).long(), dim=1, stable=True))  # padding back to the front
    history = window[:, :-1]
    turned = inputs._replace(history=history, target=torch.where(history > 0, window[:, 1:], 0))
    seen = _plain_history(model, turned, described, rng)
    seen = seen._replace(z=(seen.z + model.backwards) * seen.mask[..., None])
    return _next_item(model, seen, vectors, turned, rng)


def _plain_history(model: MealRec, inputs: Inputs, described: Tensor, rng: torch.Generator) -> History:
    """The history in plain vectors, from the candidates' described content; some IDs are dropped."""
    mask = inputs.history > 0
    held, m = places(mask)
    items = inputs.history.flatten()[held]
    at = inputs.candidates.rows(items)
    popularity = inputs.catalogue.log_popularity[at]
    ids = model.id_vectors(items, popularity)
    if not model.settings.content:
        return History(spread(ids[:m], mask), described.new_zeros(*mask.shape, described.shape[-1]), mask)
    lost = _lost(model, len(at), rng, ids.device)
    ids = torch.where(lost[:, None], model.null_id, ids)
    popularity = torch.where(lost, 0.0, popularity)
    z = model.fusion(ids, described[at], inputs.catalogue.available[at], popularity)
    return History(spread(z[:m], mask), spread(described[at[:m]], mask), mask)


def _lost(model: MealRec, n: int, rng: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(n, generator=rng, device=device) < model.settings.id_dropout


def _next_item(model: MealRec, history: History, vectors: Tensor, inputs: Inputs, rng: torch.Generator) -> Tensor:
    """Summed next-item loss on the plain states of a history, as if every target had been trained."""
    seen = model.backbone.train_states(history.z, history.mask, rng)
    trained = (inputs.target > 0) & seen.trained
    return _loss(model, seen.states[trained], vectors, inputs, trained) * _share(model, inputs, trained)


def _share(model: MealRec, inputs: Inputs, trained: Tensor) -> Tensor:
    """Positions left out must not weaken the rest."""
    return (inputs.target > 0).sum().clamp(min=1) / trained.sum().clamp(min=1)


def _loss(model: MealRec, states: Tensor, vectors: Tensor, inputs: Inputs, at: Tensor) -> Tensor:
    return inputs.candidates.loss(states, vectors, inputs.target[at], model.settings.temperature)


def _encode_history(
    model: MealRec, inputs: Inputs, scene: Scene, rng: torch.Generator, drawn: corruption.Draw | None
) -> tuple[History, Tensor]:
    """Encode every (viewer, position) under its collaborative condition, with ID dropout. Also the vectors of the same history
    after the MODALITY corruptions of `drawn` (equal elsewhere)."""
    content = inputs.content
    assert content is not None
    history, mask = inputs.history, inputs.history > 0
    at, m = places(mask)
    items = history.flatten()[at]
    rows = torch.searchsorted(inputs.videos, items)
    ids = model.id_vectors(items, content.log_popularity[rows])
    with torch.no_grad():
        plain = _plain_vectors(model, inputs, rows, ids)
    users = model.users_before(spread(plain[:m], mask), mask).flatten(0, 1)[at]
    lost = _lost(model, len(rows), rng, history.device)
    encoded, condition = model.encode_history(
        content, scene, rows, users, ids, lost=lost, held=behind_zeros(torch.unique(rows)), generator=rng
    )
    clean = History(spread(encoded.z[:m], mask), spread(encoded.described[:m], mask), mask)
    if drawn is None:
        return clean, clean.z
    viewer = mask.nonzero()[:, 0]
    is_stripped = torch.rand(m, generator=rng, device=history.device) < drawn.level[viewer]
    stripped = (is_stripped & (drawn.kind[viewer] == corruption.MODALITY)).nonzero()[:, 0]
    at = repeated(stripped, FEW)
    poorer = _poorer(content[rows[at]], rng)
    kept = torch.where(lost[at][:, None], model.null_id, ids[at])
    popularity = torch.where(lost[at], 0.0, content.log_popularity[rows[at]])
    again = model.encode(model.scene(poorer), poorer, kept, condition[at], log_popularity=popularity)
    poorer_z = encoded.z[:m].index_copy(0, stripped, again.z[: len(stripped)])
    return clean, spread(poorer_z, mask)


def _plain_vectors(model: MealRec, inputs: Inputs, rows: Tensor, ids: Tensor) -> Tensor:
    """Plain vectors [m, D] of the pairs `rows` [m] of the step's videos, whose mean features the catalogue knows."""
    if not model.settings.content:
        return ids
    facts = inputs.catalogue.rows(inputs.candidates.rows(inputs.videos))
    described = model.described_plain(facts.summary, facts.text, facts.has_frames, facts.available)[rows]
    out: Tensor = model.fusion(ids, described, facts.available[rows], facts.log_popularity[rows])
    return out


def _poorer(content: Content, rng: torch.Generator) -> Content:
    """The same videos, each without its pictures or without its sound."""
    n = len(content.available)
    without_pictures = torch.rand(n, generator=rng, device=content.available.device) < 0.5
    kept = torch.zeros_like(without_pictures)
    return content.without(torch.stack([without_pictures, ~without_pictures, kept], 1))


def _diffusion(model: MealRec, inputs: Inputs, scene: Scene, rng: torch.Generator) -> Tensor:
    """Summed diffusion loss over the step's videos, each of them once however many workers hold it; 0 without TCD."""
    if model.settings.tcd != "diffusion" or inputs.content is None:
        return scene.x.new_zeros(())
    ids = model.id_vectors(inputs.videos, inputs.content.log_popularity)
    return model.tcd.loss(scene, model.conditions(None, ids, rng), rng, inputs.share)
