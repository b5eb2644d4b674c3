"""What stays constant of the whole catalogue during training."""

from __future__ import annotations

import torch

from mealrec.data.packed import Packed
from mealrec.model.baselines.protocol import Facts
from mealrec.model.layers import rms_norm
from mealrec.model.mealrec import MealRec
from mealrec.model.softmax import FULL_SOFTMAX_UP_TO, Negatives
from mealrec.model.summary import Summary, summarise
from mealrec.training.step import Catalogue, catalogue_vectors

CHUNK = 1024  # videos whose frames are read at a time
SAMPLED = 4096  # candidates a step where the catalogue is too large for the full softmax


def catalogue_facts(data: Packed, device: torch.device | str = "cpu") -> Catalogue:
    """What stays constant of all videos. Cost: one pass over the frames; memory N x (d_v + d_a + d_t)."""
    content = data.content
    parts = [
        summarise(content.gather(torch.arange(at, min(at + CHUNK, data.items + 1))))
        for at in range(0, data.items + 1, CHUNK)
    ]
    visual, audio = (torch.cat(column).to(device) for column in zip(*parts, strict=True))
    return Catalogue(
        Summary(visual, audio),
        content.text().float().to(device),
        content.has_frames().to(device),
        content.available().to(device),
        content.log_popularity().to(device),
        content.train_count().float().to(device),
    )


@torch.no_grad()
def plain_vectors(model: MealRec, facts: Catalogue) -> torch.Tensor:
    """Vectors [N + 1, D] of the whole catalogue without diffusion."""
    everything = torch.arange(len(facts.popularity), device=facts.popularity.device)
    return catalogue_vectors(model, facts, everything)[1]


def baseline_facts(data: Packed, count: int | None, device: torch.device | str = "cpu") -> Facts:
    """The same catalogue as baselines see it: mean frame features and the title side by side. count as in `negatives`."""
    facts = catalogue_facts(data, device)
    content = torch.cat([facts.summary.visual, facts.summary.audio, rms_norm(facts.text)], -1)
    return Facts(facts.popularity, content, facts.available.any(1), negatives(facts.popularity, count))


def negatives(popularity: torch.Tensor, count: int | None) -> Negatives | None:
    """Sampled candidates: `count` a step, 0 for the whole catalogue, None for the whole up to FULL_SOFTMAX_UP_TO videos."""
    if count is None:
        count = 0 if len(popularity) - 1 <= FULL_SOFTMAX_UP_TO else SAMPLED
    return Negatives.by_popularity(popularity, count) if count else None
