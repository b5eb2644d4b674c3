"""Training of a baseline: the same batches, candidates, averaging and stopping rule as the model's own loop.

Needs torch and numpy alone. One process; every draw is a function of (seed, epoch, step).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mealrec.data.batches import Batch, Windows, steps_per_epoch, training_batches
from mealrec.data.packed import Packed
from mealrec.evaluation.metrics import summarise
from mealrec.evaluation.ranking import rank_targets
from mealrec.model.baselines.protocol import Trainable
from mealrec.model.precision import matmul
from mealrec.training.average import decay_at, follow
from mealrec.training.settings import TrainSettings
from mealrec.training.streams import mix
from mealrec.training.validation import check_targets


@dataclass(frozen=True)
class Fitted:
    """The best epoch's model in eval mode and one dict an epoch."""

    model: Trainable
    curves: list[dict[str, Any]]


def fit(
    model: Trainable,
    data: Packed,
    settings: TrainSettings,
    *,
    seed: int,
    max_history: int,
    say: Callable[[str], None] = lambda line: None,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Train until `patience` epochs bring no better validation NDCG@10, or `warmup_epochs` are over. Raises ValueError where
    nobody has a validation target."""
    check_targets(data)
    model = model.to(device)
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = _optimiser(model, settings)
    windows = Windows.of(data, max_history)
    best: tuple[float, dict[str, Tensor]] = (-1.0, {})
    curves: list[dict[str, Any]] = []
    waited = 0
    for epoch in range(settings.warmup_epochs):
        began, steps = time.monotonic(), steps_per_epoch(windows, settings.batch_size)
        with matmul(settings.matmul):
            batches = training_batches(data, windows, batch_size=settings.batch_size, seed=seed, epoch=epoch)
            loss = _epoch(model.train(), average, optimiser, batches, settings, [seed, epoch], epoch * steps)
            served = average if settings.average else model
            found = validate(served, data, max_history=max_history, device=device)
        curves.append({"epoch": epoch + 1, "loss": loss, **found})
        say(f"epoch {epoch + 1}: loss {loss:.4f} NDCG@10 {found['ndcg@10']:.4f} ({time.monotonic() - began:.1f} s)")
        if found["ndcg@10"] > best[0]:
            best, waited = (found["ndcg@10"], copy.deepcopy(served.state_dict())), 0
        else:
            waited += 1
            if waited >= settings.patience:
                break
    model.load_state_dict(best[1])
    return Fitted(model.eval(), curves)


def _epoch(
    model: Trainable,
    average: Trainable,
    optimiser: torch.optim.AdamW,
    batches: Iterator[Batch],
    settings: TrainSettings,
    stream: list[int],
    updates: int,
) -> float:
    """Train one epoch after `updates` steps; the mean loss of a target. Draws are functions of (stream, step)."""
    device = next(model.parameters()).device
    total, targets = 0.0, 0
    for step, batch in enumerate(batches):
        torch.manual_seed(mix([*stream, step, 0]))  # dropout
        rng = torch.Generator(device).manual_seed(mix([*stream, step, 1]))
        summed = model.loss(batch.history.to(device), batch.target.to(device), rng)
        optimiser.zero_grad(set_to_none=True)
        (summed.loss / max(summed.targets, 1)).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimiser.step()
        follow(average, model, decay_at(updates + step, settings.ema_decay))
        total, targets = total + float(summed.loss.detach()), targets + summed.targets
    return total / max(targets, 1)


@torch.no_grad()
def validate(
    model: Trainable, data: Packed, *, max_history: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """HR@10 and NDCG@10 on the validation targets."""
    model.eval()
    ranked = rank_targets(model.scores, data, "valid", max_history=max_history, device=device)
    found = summarise(torch.from_numpy(ranked.rank), [10])
    return {"hr@10": found["hr@10"], "ndcg@10": found["ndcg@10"]}


def _optimiser(model: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Matrices decay; embeddings, biases, norms and learned vectors do not."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.dim() >= 2 and id(p) not in embeddings]
    chosen = {id(p) for p in decayed}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=settings.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
