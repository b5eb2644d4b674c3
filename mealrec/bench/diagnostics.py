"""What can be measured of a trained model besides its ranking: is blind denoising possible, does it know what is unusual, do
the weights of tokens say anything."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mealrec.bench.cell import Ready
from mealrec.bench.conditions import corrupted
from mealrec.data.batches import evaluation_batches
from mealrec.model import corruption
from mealrec.model.inference import Tokens, catalogue_tokens, describe_range, preference
from mealrec.model.mealrec import MealRec

VIEWERS = 2000  # of the test split, enough for a second digit
LEVELS = (0.0, 0.1, 0.2, 0.3, 0.5)


def diagnose(ready: Ready, max_history: int) -> dict[str, float]:
    """Figures of a network with NPD or TCD: npd_identifiability_r2, unusual@share (mean `unusual` with that share of the
    history replaced), salience_entropy (1: the plain mean). Empty for a network without either. Deterministic."""
    model = ready.model
    if model is None:
        return {}
    out: dict[str, float] = {}
    if model.settings.tcd != "mean":
        out["salience_entropy"] = _entropy(ready, model)
    if model.settings.npd in ("blind", "told", "state"):
        tokens = catalogue_tokens(model, ready.data.content.gather, ready.data.items)
        histories = [history.to(model.null_id.device) for history in _histories(ready, max_history)]
        out["npd_identifiability_r2"] = _identifiability(model, ready, histories, tokens)
        popularity = ready.data.content.train_count().float()
        for level in LEVELS:
            moved: list[Tensor] = []

            def score(history: Tensor, moved: list[Tensor] = moved) -> Tensor:
                moved.append(preference(model, ready.data.content.gather, history, tokens).unusual)
                return history.float()

            disturbed = corrupted(score, "replace", level, popularity, 1, max_history)
            for history in histories:
                disturbed(history)
            out[f"unusual@{level}"] = float(torch.cat(moved).mean())
    return out


def _histories(ready: Ready, max_history: int) -> list[Tensor]:
    out, viewers = [], 0
    for viewer, batch in evaluation_batches(ready.data, "test", max_history=max_history, batch_size=500):
        out.append(batch.history)
        viewers += len(viewer)
    step = max(len(out) * 500 // max(VIEWERS, 1), 1)
    return out[::step]


def _entropy(ready: Ready, model: MealRec) -> float:
    """Mean entropy of the item-mode weights over the log of how many tokens each video has, videos of one token left out."""
    weights = describe_range(model, ready.data.content.gather, 1, ready.data.items + 1).salience.double()
    tokens = (weights > 0).sum(1)
    several = tokens > 1
    if not bool(several.any()):
        return math.nan
    entropy = -(weights.clamp(min=1e-12).log() * weights).sum(1)
    return float((entropy[several] / tokens[several].double().log()).mean())


@torch.no_grad()
def _identifiability(model: MealRec, ready: Ready, histories: list[Tensor], tokens: Tokens | None) -> float:
    """R^2 of a linear probe for log sigma of Gaussian noise on the item vectors, from what the denoiser reads (its place is the
    item vectors or the last state): mean coordinates, their squares and the log norm. Fitted on one half of the viewers,
    measured on the other (model.md 2.8.1). Only the model's passes are on its device: draws are those of the CPU."""
    rng = torch.Generator().manual_seed(0)
    features, levels = [], []
    for history in histories:
        mask = (history > 0).cpu()
        z = _vectors(model, ready, history).cpu()
        level = _log_uniform(len(history), rng)
        drawn = corruption.Draw(torch.full((len(history),), corruption.GAUSSIAN), level)
        noisy = corruption.corrupt(z, mask, drawn, torch.zeros_like(z), z, mask.shape[1], rng)
        if model.settings.npd == "state":
            seen = model.backbone(noisy.z.to(history.device), noisy.mask.to(history.device))[:, -1].cpu()
        else:
            seen = noisy.z[noisy.mask]
        of = noisy.mask.nonzero()[:, 0] if model.settings.npd != "state" else torch.arange(len(history))
        size = seen.norm(dim=-1, keepdim=True).clamp(min=1e-6).log()
        read = torch.cat([seen, seen.square(), size, torch.ones_like(size)], -1)
        total = torch.zeros(len(history), read.shape[1]).index_add_(0, of, read)
        features.append(total / total[:, -1:].clamp(min=1))
        levels.append(level.log())
    x, y = torch.cat(features).double().numpy(), torch.cat(levels).double().numpy()
    order = np.random.default_rng(0).permutation(len(y))
    fit, test = order[: len(y) // 2], order[len(y) // 2 :]
    ridge = np.eye(x.shape[1]) * 1e-3 * len(fit)
    weights = np.linalg.solve(x[fit].T @ x[fit] + ridge, x[fit].T @ y[fit])
    residual = y[test] - x[test] @ weights
    return float(1 - residual.var() / y[test].var())


def _log_uniform(n: int, rng: torch.Generator) -> Tensor:
    low, high = (math.log(v) for v in corruption.SIGMA)
    return torch.exp(low + torch.rand(n, generator=rng) * (high - low))


def _vectors(model: MealRec, ready: Ready, history: Tensor) -> Tensor:
    """Plain vectors of a history [B, L, D]."""
    mask = history > 0
    videos, rows = torch.unique(history[mask], return_inverse=True)
    content = ready.data.content.gather(videos)
    ids = model.id_vectors(history[mask], content.log_popularity[rows])
    _, plain = model.plain_history(content, rows, ids)
    return plain.new_zeros(*mask.shape, plain.shape[-1]).masked_scatter(mask[..., None], plain)
