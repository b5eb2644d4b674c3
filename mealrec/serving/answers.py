"""From a model and a history of video ids to the endpoint's answers, with the fallback rules. No effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mealrec.serving.messages import RecommendAnswer, Recommended, RecommendRequest, SalienceAnswer, SalientFrame
from mealrec.serving.models import Served

Part = Literal["tcd", "rerank", "npd"]
# from how many deadlines of waiting on
LEFT_OUT: tuple[tuple[float, Part], ...] = ((2.0, "tcd"), (1.5, "rerank"), (1.0, "npd"))


def recommend(
    served: Served, asked: RecommendRequest, history: Sequence[str], *, waited: float = 0.0, rerank: int = 0
) -> RecommendAnswer:
    """The best videos for a history of video ids; waited: how many of its deadlines the request has waited.

    Fallbacks: unknown ids are dropped and counted; without a known video the list is by recent popularity; a request that
    waited is answered without NPD, then without the re-rank, then without TCD. A video without content is known by its ID
    alone (the model's own null content)."""
    index, ids = served.recommender.index, served.recommender.video_ids
    known = [index[v] for v in history if v in index]
    exclude = [index[v] for v in asked.exclude if v in index]
    only = None if asked.only is None else [index[v] for v in asked.only if v in index]
    given = len(history) + len(asked.exclude) + len(asked.only or ())
    skipped = [part for share, part in LEFT_OUT if known and waited > share and (part != "rerank" or rerank)]
    found = served.recommender.recommend(
        [known],
        asked.k,
        asked.exclude_seen,
        exclude=exclude,
        only=only,
        quick="tcd" in skipped,
        npd="npd" not in skipped,
        rerank=0 if "rerank" in skipped else rerank,
        viewer=asked.user_id,
    )
    places = np.nonzero(found.item_index[0])[0].tolist()
    videos = [
        Recommended(
            video_id=ids[int(found.item_index[0, at]) - 1],
            score=float(found.scores[0, at]),
            moment_ms=_moment(int(found.moments_ms[0, at])),
        )
        for at in places
    ]
    return RecommendAnswer(
        model_version=served.version,
        videos=videos,
        history_length=len(known),
        unknown=given - len(known) - len(exclude) - len(only or ()),
        fallback=None if known else "unknown_videos" if history else "empty_history",
        skipped=skipped,
        unusual=float(found.unusual[0]),
    )


def salience(served: Served, video_id: str, user_id: str | None, history: Sequence[str]) -> SalienceAnswer:
    """Weights of a video's frames: for the viewer with this history as its last item, or in general without a viewer.

    Raises KeyError for a video that the model does not know."""
    recommender = served.recommender
    item = recommender.index[video_id]
    weights = recommender.salience[item].numpy()
    if user_id is not None:
        before = [recommender.index[v] for v in history if v in recommender.index and v != video_id]
        weights = recommender.explain([*before, item])[-1]
    arrays = recommender.content.arrays
    shown = [int(f) for f in np.nonzero(arrays["frame_mask"][item])[0] if arrays["times"][item, f] >= 0]
    frames = [SalientFrame(time_ms=int(arrays["times"][item, f]), weight=float(weights[f])) for f in shown]
    best = max(frames, key=lambda frame: frame.weight, default=None)
    return SalienceAnswer(
        model_version=served.version,
        video_id=video_id,
        user_id=user_id,
        frames=frames,
        moment_ms=None if best is None else best.time_ms,
    )


def _moment(time_ms: int) -> int | None:
    return None if time_ms < 0 else time_ms
