"""What stays constant of the whole catalogue during training."""

from __future__ import annotations

import torch

from mealrec.data import means
from mealrec.data.packed import Packed
from mealrec.model.baselines.protocol import Facts
from mealrec.model.layers import rms_norm
from mealrec.model.mealrec import MealRec
from mealrec.model.softmax import FULL_SOFTMAX_UP_TO, Negatives
from mealrec.training.step import Catalogue, catalogue_vectors

CHUNK = 32_768  # videos whose vectors are made at a time
SAMPLED = 4096  # candidates a step where the catalogue is too large for the full softmax


def catalogue_facts(data: Packed, device: torch.device | str = "cpu") -> Catalogue:
    """What stays constant of all videos: their means and titles as they lie on disk, from where `rows` takes them onto the
    device, and the few numbers a video that are left in memory. Cost: one pass over N; memory: some 30 bytes a video."""
    content = data.content
    return Catalogue(
        means.mapped(content),
        content.mapped("text"),
        content.has_frames().to(device),
        content.available().to(device),
        content.log_popularity().to(device),
        content.train_count().float().to(device),
    )


@torch.no_grad()
def item_vectors(model: MealRec, facts: Catalogue) -> torch.Tensor:
    """Item-mode vectors [N + 1, D] of the whole catalogue, without diffusion where it holds no pooled tokens."""
    everything = torch.arange(len(facts.popularity), device=facts.popularity.device)
    return torch.cat(
        [catalogue_vectors(model, facts.rows(index), index)[1] for index in torch.split(everything, CHUNK)]
    )


def baseline_facts(data: Packed, count: int | None, device: torch.device | str = "cpu") -> Facts:
    """The same catalogue as baselines see it: mean frame features and the title side by side. count as in `negatives`."""
    facts = catalogue_facts(data, device)
    facts = facts.rows(torch.arange(data.items + 1, device=device))
    content = torch.cat([facts.summary.visual, facts.summary.audio, rms_norm(facts.text)], -1)
    return Facts(facts.popularity, content, facts.available.any(1), negatives(facts.popularity, count))


def negatives(popularity: torch.Tensor, count: int | None) -> Negatives | None:
    """Sampled candidates: `count` a step, 0 for the whole catalogue, None for the whole up to FULL_SOFTMAX_UP_TO videos."""
    if count is None:
        count = 0 if len(popularity) - 1 <= FULL_SOFTMAX_UP_TO else SAMPLED
    return Negatives.by_popularity(popularity, count) if count else None
