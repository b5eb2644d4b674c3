"""The number that training stops by: validation HR@10 and NDCG@10 over the whole catalogue, exact for any number of workers."""

from __future__ import annotations

import torch

from mealrec.data.packed import Packed
from mealrec.evaluation.metrics import gains
from mealrec.evaluation.ranking import model_scorer, plain_scorer, rank_targets
from mealrec.model.mealrec import MealRec
from mealrec.training.facts import item_vectors
from mealrec.training.peers import Peers
from mealrec.training.step import Catalogue

K = 10
WAYS_OUT = {
    "temporal": "raise sessionize.valid_share, ingest more days, or set evaluate.protocol=leave-one-out",
    "leave-one-out": "it takes viewers of three interactions or more: ingest more of their days",
}


def check_targets(data: Packed) -> None:
    """Raises ValueError where nobody has a validation target: every epoch would be as good as the first, and that be kept."""
    if not (data.target_at("valid") >= 0).any():
        protocol = data.meta.get("protocol", "leave-one-out")
        raise ValueError(
            f"evaluate.protocol={protocol} leaves no viewer a validation target, which training stops by: "
            f"{WAYS_OUT[protocol]}"
        )


@torch.no_grad()
def validate(
    model: MealRec, data: Packed, catalogue: Catalogue, peers: Peers, *, most: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """HR@10 and NDCG@10 of the validation targets of at most `most` viewers, evenly spaced, each worker ranking its part.

    catalogue: with item-mode tokens for the whole model, without (`pooled` None) for the warm-up's, which has no TCD."""
    model.eval()
    if catalogue.pooled is None:
        scorer = plain_scorer(model, item_vectors(model, catalogue))
    else:
        scorer = model_scorer(model, data.content.gather, item_vectors(model, catalogue))
    ranked = rank_targets(
        scorer,
        data,
        "valid",
        max_history=model.settings.max_history,
        rank=peers.rank,
        world=peers.world,
        most=most,
        device=device,
    )
    # how often each rank came, not sums of gains: whole numbers add up alike however many workers share the viewers
    counts = peers.total(torch.bincount(torch.from_numpy(ranked.rank).clamp(max=K + 1), minlength=K + 2))
    viewers, among = max(int(counts.sum()), 1), counts[1:-1]
    return {
        "hr@10": int(among.sum()) / viewers,
        "ndcg@10": float((among * gains(torch.arange(1, K + 1), K)).sum()) / viewers,
    }
