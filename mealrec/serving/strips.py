"""A viewer as the page shows one: the history and the recommendations as film strips with the weight of each frame, and why.

Pure: from a recommender, a history and what the gallery found to plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from mealrec.serving.recommender import Recommender

NEAREST = 3
Strip = dict[str, Any]


def strips(
    recommender: Recommender, history: Sequence[str], k: int, shown: int
) -> tuple[list[Strip], list[Strip], list[str]]:
    """History (newest first, at most `shown`), recommendations (best first), and every video id among them.

    Frame weights of the history are this viewer's; those of recommendations are nobody's in particular."""
    index = recommender.index
    known = [index[v] for v in history if v in index]
    own = recommender.explain(known) if known else np.zeros((0, 0), dtype=np.float32)
    window = list(zip(known[-len(own) :], own, strict=True))[::-1][:shown] if known else []
    watched = [_strip(recommender, item, weights) for item, weights in window]
    found = recommender.recommend([known], k)
    chosen = [(int(i), float(s)) for i, s in zip(found.item_index[0], found.scores[0], strict=True) if i]
    general = recommender.salience.numpy()
    best = [_strip(recommender, item, general[item]) | {"score": score} for item, score in chosen]
    for strip, (item, _) in zip(best, chosen, strict=True):
        strip["nearest"] = _nearest(recommender, item, known)
    return watched, best, [strip["video_id"] for strip in (*watched, *best)]


def dressed(strip: Strip, titles: Mapping[str, str], pictures: Mapping[str, Sequence[str]]) -> Strip:
    """The strip with its title and the picture of each frame that has one."""
    jpegs = pictures.get(strip["video_id"], ())
    frames = [f | {"picture": jpegs[f["frame"]] if f["frame"] < len(jpegs) else None} for f in strip["frames"]]
    near = [n | {"title": titles.get(n["video_id"])} for n in strip.get("nearest", [])]
    return strip | {"title": titles.get(strip["video_id"]), "frames": frames} | ({"nearest": near} if near else {})


def _strip(recommender: Recommender, item: int, weights: Any) -> Strip:
    arrays = recommender.content.arrays
    mask, times = np.asarray(arrays["frame_mask"][item]), np.asarray(arrays["times"][item])
    frames = [{"frame": int(f), "time_ms": int(times[f]), "weight": float(weights[f])} for f in np.nonzero(mask)[0]]
    counts = recommender.popularity[1:]
    rank = float((counts < recommender.popularity[item]).float().mean())
    return {
        "video_id": recommender.video_ids[item - 1],
        "frames": frames if mask.any() else [],
        "watched": int(recommender.popularity[item]),
        "more_popular_than": rank,
    }


def _nearest(recommender: Recommender, item: int, known: Sequence[int]) -> list[dict[str, Any]]:
    """The videos of the history whose vectors point most in the same direction (cosine)."""
    if not known:
        return []
    vectors = recommender.catalogue[torch.tensor(list(known))]
    cosine = F.cosine_similarity(vectors, recommender.catalogue[item][None], dim=-1)
    order = torch.sort(cosine, descending=True, stable=True).indices[:NEAREST]
    return [{"video_id": recommender.video_ids[known[int(i)] - 1], "cosine": float(cosine[i])} for i in order]
