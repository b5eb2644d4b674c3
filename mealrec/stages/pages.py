"""Gather what the report page shows: a few viewers with the frames of their videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mealrec.config import RunConfig
from mealrec.data.packed import Packed
from mealrec.evaluation.ranking import Ranked
from mealrec.evaluation.report import Frame, ReportData, Strip, ViewerPage, render
from mealrec.lake import Lake
from mealrec.schema import FEATURES
from mealrec.serving.recommender import Recommender
from mealrec.sources.landing import locate

HISTORY_SHOWN, RECOMMENDED_SHOWN = 4, 4


def write_page(
    config: RunConfig,
    lake: Lake,
    packed: Packed,
    recommender: Recommender,
    report: dict[str, Any],
    ranked: Ranked,
    out: Path,
) -> Path:
    """Cost: the frames of strips x (history + recommended) videos are read, nothing else of the tables."""
    chosen = _viewers(packed, ranked, config.evaluate.strips)
    wanted: dict[int, tuple[list[int], list[int]]] = {}
    for viewer in chosen:
        history = [int(i) for i in packed.history(viewer, "test")]
        found = recommender.recommend([history], RECOMMENDED_SHOWN)
        wanted[viewer] = (history, [int(i) for i in found.item_index[0] if i])
    videos = {i for history, top in wanted.values() for i in (*history[-HISTORY_SHOWN:], *top)}
    pictures, titles = _pictures(lake, report, recommender, videos), _titles(config)
    pages = [
        _page(viewer, history, top, packed, recommender, pictures, titles) for viewer, (history, top) in wanted.items()
    ]
    return render(ReportData(f"MealRec: {_name(config)}", report, pages), out)


def _viewers(packed: Packed, ranked: Ranked, count: int) -> list[int]:
    """Viewers with a longer history, spread over the table."""
    length = np.diff(packed.offsets)[ranked.viewer]
    able = ranked.viewer[length > HISTORY_SHOWN]
    if not len(able) or not count:
        return []
    return [int(able[i]) for i in np.linspace(0, len(able) - 1, min(count, len(able))).astype(int)]


def _page(
    viewer: int,
    history: list[int],
    top: list[int],
    packed: Packed,
    recommender: Recommender,
    pictures: dict[str, list[bytes]],
    titles: dict[str, str | None],
) -> ViewerPage:
    own = recommender.explain(history)
    shown = list(zip(history[-len(own) :], own, strict=True))[-HISTORY_SHOWN:]
    general = recommender.salience.numpy()

    def strip(index: int, weights: Any, note: str) -> Strip:
        video = recommender.video_ids[index - 1]
        mask = np.asarray(recommender.content.arrays["frame_mask"][index])
        times = np.asarray(recommender.content.arrays["times"][index])
        jpegs = pictures.get(video, [])
        frames = [
            Frame(float(weights[f]), int(times[f]), jpegs[f] if f < len(jpegs) else None) for f in np.nonzero(mask)[0]
        ]
        return Strip(video, titles.get(video) or "(no title)", frames, note)

    return ViewerPage(
        packed.user_ids([viewer])[0],
        [strip(index, weights, "") for index, weights in shown],
        [strip(index, general[index], f"rank {place}") for place, index in enumerate(top, start=1)],
    )


def _pictures(lake: Lake, report: dict[str, Any], recommender: Recommender, videos: set[int]) -> dict[str, list[bytes]]:
    ids = sorted(recommender.video_ids[i - 1] for i in videos)
    rows = lake.read(
        FEATURES, report["data"][FEATURES], columns=["video_id", "thumbnails"], filters=pc.field("video_id").isin(ids)
    )
    return {row["video_id"]: row["thumbnails"] or [] for row in rows.to_pylist()}


def _titles(config: RunConfig) -> dict[str, str | None]:
    catalogue = locate(config).catalogue()
    return dict(zip(catalogue["video_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True))


def _name(config: RunConfig) -> str:
    return Path(config.source.directory).name if config.source.directory else config.source.kind
