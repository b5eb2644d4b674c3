"""From stored content to vectors and scores, without randomness: shared by validation, evaluation and serving.

`gather` fetches the content of item indices (from mapped files or from a bundle), so nothing here knows where it lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mealrec.model.content import Content
from mealrec.model.layers import spread
from mealrec.model.mealrec import History, MealRec
from mealrec.model.tcd import Scene

Gather = Callable[[Tensor], Content]


class Described(NamedTuple):
    """Item-mode content of videos: pooled tokens v and described content [n, D], salience [n, F]."""

    pooled: Tensor
    described: Tensor
    salience: Tensor


class Parts(NamedTuple):
    """All that serving caches of videos in item mode: described, plain [n, D], salience, redundancy [n, F], refined tokens and
    their keys [n, F, D]."""

    described: Tensor
    plain: Tensor
    salience: Tensor
    redundancy: Tensor
    refined: Tensor
    key: Tensor


class Tokens(NamedTuple):
    """Item-mode refined tokens [N + 1, F, D] of the whole catalogue and its scene: with personal "pooling" a viewer only
    weighs them. Memory: some 4 x N x F x D numbers."""

    refined: Tensor
    scene: Scene


class Preference(NamedTuple):
    """Viewers' denoised states h [B, D] and, for every history position, the frames' salience [B, L, F]; unusual [B]:
    ||R|| / ||z||, how far the denoiser moved the history's vectors, or the state if it stands there (0 without one)."""

    state: Tensor
    salience: Tensor
    unusual: Tensor


@torch.no_grad()
def describe(model: MealRec, gather: Gather, index: Tensor) -> Described:
    """Item-mode TCD of the videos `index` [n] (nonzero). Cost: n denoiser runs."""
    content = gather(index)
    ids = model.id_vectors(index, content.log_popularity)
    encoded = model.encode(model.scene(content), content, ids, model.conditions(None, ids))
    return Described(encoded.pooled, encoded.described, encoded.salience)


def describe_range(model: MealRec, gather: Gather, start: int, end: int, *, chunk: int = 512) -> Described:
    """`describe` for the items start..end-1, `chunk` at a time: memory does not grow with the catalogue's frames."""
    device = model.null_id.device
    parts = [
        describe(model, gather, torch.arange(at, min(at + chunk, end), device=device))
        for at in range(start, end, chunk)
    ]
    if not parts:
        none = torch.zeros(0, model.settings.width, device=device)
        return Described(none, none, torch.zeros(0, model.settings.frames, device=device))
    return Described(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def parts(model: MealRec, gather: Gather, index: Tensor) -> Parts:
    """What to cache of the videos `index` [n]. Cost: n denoiser runs."""
    content = gather(index)
    ids = model.id_vectors(index, content.log_popularity)
    scene, condition = model.scene(content), model.conditions(None, ids)
    refined = model.refine(scene, condition)
    seen = model.encode(scene, content, ids, condition, refined=refined)
    _, plain = model.plain_history(content, torch.arange(len(index), device=index.device), ids)
    return Parts(seen.described, plain, seen.salience, scene.redundancy, refined, model.salience.keys(refined, scene.g))


@torch.no_grad()
def catalogue_tokens(model: MealRec, gather: Gather, items: int, *, chunk: int = 512) -> Tokens | None:
    """Refined tokens of the items 0..items; None where a viewer's signal enters the denoiser (personal "denoiser")."""
    if model.settings.personal == "denoiser" or model.settings.tcd == "mean":
        return None
    parts: list[tuple[Tensor, ...]] = []
    for at in range(0, items + 1, chunk):
        index = torch.arange(at, min(at + chunk, items + 1), device=model.null_id.device)
        content = gather(index)
        scene = model.scene(content)
        ids = model.id_vectors(index, content.log_popularity)
        parts.append((model.refine(scene, model.conditions(None, ids)), *scene))
    refined, *scene_parts = (torch.cat(column) for column in zip(*parts, strict=True))
    return Tokens(refined, Scene(*scene_parts))


@torch.no_grad()
def preference(model: MealRec, gather: Gather, history: Tensor, tokens: Tokens | None = None) -> Preference:
    """Denoised preference of viewers with histories [B, L] (left-padded with 0, L <= max_history), TCD in mode user+item.

    Cost: one denoiser run for each history position; with `tokens` none. A viewer without history gets the state zero."""
    mask = history > 0
    videos, rows = torch.unique(history[mask], return_inverse=True)
    content = gather(videos)
    scene = model.scene(content) if tokens is None else tokens.scene.rows(videos)
    ids = model.id_vectors(history[mask], content.log_popularity[rows])
    _, plain = model.plain_history(content, rows, ids)
    users = model.users_before(spread(plain, mask), mask)[mask]
    refined = None if tokens is None else tokens.refined[videos]
    encoded, _ = model.encode_history(content, scene, rows, users, ids, refined=refined)
    held = History(spread(encoded.z, mask), spread(encoded.described, mask), mask)
    state, moved = denoised(model, held)
    return Preference(state, spread(encoded.salience, mask), moved)


def denoised(model: MealRec, held: History) -> tuple[Tensor, Tensor]:
    """The newest states [B, D] after NPD, and how far NPD moved what it works on."""
    if model.settings.npd in ("blind", "told"):
        z = model.recover(held).z
        return model.newest_states(held._replace(z=z)), _moved(held.z.flatten(1), z.flatten(1))
    states = model.newest_states(held)
    if model.settings.npd != "state":
        return states, torch.zeros_like(states[:, 0])
    state = model.preferences(held)[:, -1]
    return state, _moved(states, state)


def _moved(before: Tensor, after: Tensor) -> Tensor:
    out: Tensor = (after - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-8)
    return out


@torch.no_grad()
def plain_state(model: MealRec, vectors: Tensor, history: Tensor) -> Tensor:
    """States [B, D] of histories [B, L] in plain vectors [N + 1, D]: the model before, or without, TCD and NPD."""
    mask = history > 0
    out: Tensor = model.backbone.newest(vectors[history] * mask[..., None], mask)
    return out
