"""The losses of one step (model.md section 3). Imports torch alone; randomness comes from the generator it is given.

Stages: S0 `warmup` trains the ID-only backbone, S1 `content` trains tokeniser, TCD and fusion with the rest frozen,
S2 `joint` trains everything with NPD. All positions of a history are trained at once; each distinct video of a step is
tokenised once; TCD refines once for each (viewer, position).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mealrec.model import npd
from mealrec.model.content import TEXT, Content
from mealrec.model.layers import spread
from mealrec.model.mealrec import History, MealRec
from mealrec.model.tcd import Scene

Stage = Literal["warmup", "content", "joint"]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective; `next_item` is CE on the denoised state and always 1."""

    plain: float = 0.5  # CE(h, y) beside CE(hhat, y)
    tcd: float = 0.1
    npd: float = 0.5  # 1 - cos(hhat, clean state of the EMA backbone)


@dataclass(frozen=True)
class Catalogue:
    """What scoring needs of all videos: item-mode pooled tokens v [N + 1, D] as of the epoch's start, the titles
    [N + 1, d_t], has_frames [N + 1], available [N + 1, 3], log_popularity [N + 1] and popularity [N + 1] (training counts).

    v is constant within an epoch for every video alike; the content MLP, gates and IDs are live for every video. Were v
    live for the videos of a step and cached for the others, a common drift of the live ones would mark the targets (they
    are always among them) and the loss would fall without anything learned: measured, see benchmarks/LOG.md.
    """

    pooled: Tensor
    text: Tensor
    has_frames: Tensor
    available: Tensor
    log_popularity: Tensor
    popularity: Tensor


class Inputs(NamedTuple):
    """One step's tensors: history, target [B, L]; videos [U] the distinct items of both; content of those videos."""

    history: Tensor
    target: Tensor
    videos: Tensor
    content: Content


class Losses(NamedTuple):
    """total: sums over positions divided by `positions` (a global count, so that workers' gradients add up exactly);
    parts: detached sums for the log."""

    total: Tensor
    parts: dict[str, float]


def distinct(history: Tensor, target: Tensor) -> Tensor:
    """Distinct item indices of a batch, padding left out."""
    videos: Tensor = torch.unique(torch.cat([history.reshape(-1), target.reshape(-1)]))
    return videos[videos > 0]


def warmup_loss(model: MealRec, history: Tensor, target: Tensor, positions: float) -> Losses:
    """S0: next-item cross-entropy over the catalogue on the ID-only pass."""
    states = model.id_states(history)[target > 0]
    loss = _cross_entropy(model.scores(states, model.ids.weight), target[target > 0]) / positions
    return Losses(loss, {"next_item": float(loss.detach())})


def content_loss(
    model: MealRec, inputs: Inputs, catalogue: Catalogue, weights: LossWeights, positions: float, rng: torch.Generator
) -> Losses:
    """S1: next-item cross-entropy on the content-aware states plus the diffusion loss."""
    scene = model.scene(inputs.content)
    encoded, _ = _encode_history(model, inputs, scene, rng)
    vectors, tcd = _catalogue_vectors(model, inputs, scene, catalogue, rng)
    wanted = inputs.target > 0
    loss = _cross_entropy(model.scores(model.states(encoded)[wanted], vectors), inputs.target[wanted]) / positions
    total = loss + weights.tcd * tcd / positions
    return Losses(total, {"next_item": float(loss.detach()), "tcd": float(tcd.detach()) / positions})


def joint_loss(
    model: MealRec,
    teacher: MealRec,
    inputs: Inputs,
    catalogue: Catalogue,
    weights: LossWeights,
    positions: float,
    rng: torch.Generator,
) -> Losses:
    """S2: CE(hhat, y) on corrupted histories + plain CE(h, y) + TCD + (1 - cos(hhat, clean state of the EMA teacher))."""
    scene = model.scene(inputs.content)
    drawn = npd.draw(inputs.history.shape[0], rng) if model.settings.npd else None
    clean, stripped = _encode_history(model, inputs, scene, rng, drawn)
    vectors, tcd = _catalogue_vectors(model, inputs, scene, catalogue, rng)
    wanted = inputs.target > 0
    plain = _cross_entropy(model.scores(model.states(clean)[wanted], vectors), inputs.target[wanted]) / positions
    parts = {"plain": float(plain.detach()), "tcd": float(tcd.detach()) / positions}
    if drawn is None:
        return Losses(plain + weights.tcd * tcd / positions, parts)
    substitutes = vectors[_popular(catalogue.popularity, inputs.history.shape, rng)]
    corrupted = npd.corrupt(clean.z, clean.mask, drawn, substitutes, stripped, rng)
    denoised = model.preferences(History(corrupted.z, clean.described, corrupted.mask))
    trained = wanted & corrupted.trusted & corrupted.mask
    share = wanted.sum().clamp(min=1) / trained.sum().clamp(min=1)  # positions left out must not weaken the rest
    recovered = _cross_entropy(model.scores(denoised[trained], vectors), inputs.target[trained]) * share / positions
    with torch.no_grad():
        reference = teacher.states(History(clean.z.detach(), clean.described.detach(), clean.mask))[trained]
    away = (1 - F.cosine_similarity(denoised[trained], reference, dim=-1)).sum() * share / positions
    total = recovered + weights.plain * plain + weights.tcd * tcd / positions + weights.npd * away
    return Losses(total, parts | {"next_item": float(recovered.detach()), "npd": float(away.detach())})


@torch.no_grad()
def catalogue_vectors(model: MealRec, catalogue: Catalogue) -> Tensor:
    """Item-mode vectors zbar [N + 1, D] for ranking."""
    return _live_vectors(model, catalogue)


def _live_vectors(model: MealRec, catalogue: Catalogue) -> Tensor:
    has_text = catalogue.available[:, TEXT]
    described = model.fusion.describe(catalogue.pooled, catalogue.text, catalogue.has_frames, has_text)
    vectors: Tensor = model.catalogue(described, catalogue.available, catalogue.log_popularity)
    return vectors


def _encode_history(
    model: MealRec, inputs: Inputs, scene: Scene, rng: torch.Generator, drawn: npd.Draw | None = None
) -> tuple[History, Tensor]:
    """Encode every (viewer, position) under its collaborative condition, with ID dropout. Also the vectors of the same history
    after the MODALITY corruptions of `drawn` (equal elsewhere)."""
    history, mask = inputs.history, inputs.history > 0
    rows = torch.searchsorted(inputs.videos, history[mask])
    popularity = inputs.content.log_popularity[rows]
    ids = model.id_vectors(history[mask], popularity)
    users = model.users_before(history)[mask]
    condition = model.conditions(users, ids, rng)
    lost = torch.rand(len(rows), generator=rng, device=history.device) < model.settings.id_dropout
    ids = torch.where(lost[:, None], model.null_id, ids)
    content, entry_scene = inputs.content[rows], scene.rows(rows)
    popularity = torch.where(lost, 0.0, popularity)
    encoded = model.encode(entry_scene, content, ids, condition, popularity)
    clean = History(spread(encoded.z, mask), spread(encoded.described, mask), mask)
    if drawn is None:
        return clean, clean.z
    viewer = mask.nonzero()[:, 0]
    is_stripped = torch.rand(len(rows), generator=rng, device=history.device) < drawn.level[viewer]
    at = (is_stripped & (drawn.kind[viewer] == npd.MODALITY)).nonzero()[:, 0]
    poorer = _poorer(content[at], rng)
    again = model.encode(model.scene(poorer), poorer, ids[at], condition[at], popularity[at])
    return clean, spread(encoded.z.index_copy(0, at, again.z), mask)


def _poorer(content: Content, rng: torch.Generator) -> Content:
    """The same videos, each without its pictures or without its sound."""
    n = len(content.available)
    without_pictures = torch.rand(n, generator=rng, device=content.available.device) < 0.5
    kept = torch.zeros_like(without_pictures)
    return content.without(torch.stack([without_pictures, ~without_pictures, kept], 1))


def _catalogue_vectors(
    model: MealRec, inputs: Inputs, scene: Scene, catalogue: Catalogue, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Item-mode vectors [N + 1, D] and the summed diffusion loss over the step's videos."""
    vectors = _live_vectors(model, catalogue)
    if not model.settings.tcd:
        return vectors, vectors.new_zeros(())
    ids = model.id_vectors(inputs.videos, inputs.content.log_popularity)
    return vectors, model.tcd.loss(scene, model.conditions(None, ids, rng), rng)[0]


def _cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Summed softmax cross-entropy with the padding column excluded; 0 for no rows."""
    if len(target) == 0:
        return scores.sum()
    return F.cross_entropy(scores[:, 1:], target - 1, reduction="sum")


def _popular(popularity: Tensor, shape: torch.Size, rng: torch.Generator) -> Tensor:
    drawn = torch.multinomial(popularity, shape.numel(), replacement=True, generator=rng)
    return drawn.view(shape)
