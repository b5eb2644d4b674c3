"""What drift looks at: which columns become which quantities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mealrec.config_operations import DriftConfig
from mealrec.data import sample
from mealrec.data.histograms import RATIO_EDGES
from mealrec.evaluation.drift import Quantity, binned, classes, share, values
from mealrec.lake import Lake
from mealrec.schema import FEATURES, INTERACTIONS, SEQUENCES
from mealrec.serving.recommender import Recommender
from mealrec.serving.signals import signals

EVENT_COLUMNS = ("event_type", "timestamp_ms", "watch_ms", "watch_ratio", "is_positive")
MODALITIES = {"visual": ("visual", "visual_dim"), "audio": ("audio", "audio_dim"), "text": ("text", "text_dim")}
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Sides:
    """The two sets of table versions to compare."""

    lake: Lake
    then: dict[str, int]
    now: dict[str, int]
    config: DriftConfig


def of_events(sides: Sides) -> Iterator[Quantity | None]:
    """Events of the days after the last that the champion knows; all of them when there is no later day."""
    lake, config = sides.lake, sides.config
    known = sample.last_day(lake, sides.then[INTERACTIONS])
    later = sample.last_day(lake, sides.now[INTERACTIONS])
    after = known if known is not None and later is not None and later > known else None
    before = sample.events(lake, sides.then[INTERACTIONS], EVENT_COLUMNS, config.events)
    now = sample.events(lake, sides.now[INTERACTIONS], EVENT_COLUMNS, config.events, after=after)
    yield classes("events", "event_type", before["event_type"].to_pylist(), now["event_type"].to_pylist(), config)
    yield classes("events", "hour_of_day", _hours(before), _hours(now), config)
    yield binned(
        "events", "watch_ratio", _numbers(before, "watch_ratio"), _numbers(now, "watch_ratio"), RATIO_EDGES, config
    )
    yield values("events", "watch_ms", _numbers(before, "watch_ms"), _numbers(now, "watch_ms"), config)
    yield share("events", "without_watch_time", _missing(before), _missing(now), config)
    yield share("events", "positive", _positive(before), _positive(now), config)


def of_features(sides: Sides) -> Iterator[Quantity | None]:
    """Videos in files that were added since; all of them when no file was."""
    lake, config = sides.lake, sides.config
    known = lake.files(FEATURES, sides.then[FEATURES])
    files = lake.files(FEATURES, sides.now[FEATURES])
    added = sorted(set(files) - set(known)) or files
    before, now = (_described(lake, side, config.videos) for side in (known, added))
    for name in MODALITIES:
        yield values("features", f"{name}_norm", before[name][:, 0], now[name][:, 0], config)
        yield values("features", f"{name}_mean", before[name][:, 1], now[name][:, 1], config)
        absent, absent_now = before["videos"] - len(before[name]), now["videos"] - len(now[name])
        yield share("features", f"without_{name}", (absent, before["videos"]), (absent_now, now["videos"]), config)


def of_scores(sides: Sides, recommender: Recommender) -> Iterator[Quantity | None]:
    """What the champion says of the same viewers' histories then and now, and what it cannot know."""
    count, lake = sides.config.viewers, sides.lake
    before, now = (
        signals(recommender, sample.histories(lake, side[SEQUENCES], count)) for side in (sides.then, sides.now)
    )
    yield values("scores", "best", before.top, now.top, sides.config)
    yield values("scores", "gap_to_second", before.gap, now.gap, sides.config)
    yield values("scores", "unusual_history", before.unusual, now.unusual, sides.config)
    yield share("fallbacks", "empty_history", (before.empty, before.viewers), (now.empty, now.viewers), sides.config)
    unknown, unknown_now = (before.unknown, before.entries), (now.unknown, now.entries)
    yield share("fallbacks", "unknown_videos", unknown, unknown_now, sides.config)


def _numbers(table: pa.Table, column: str) -> npt.NDArray[np.float64]:
    """The values that are there."""
    found: npt.NDArray[np.float64] = table[column].drop_null().to_numpy().astype(np.float64)
    return found


def _hours(events: pa.Table) -> list[int]:
    """Hour of the day in UTC."""
    return [int(hour) for hour in _numbers(events, "timestamp_ms") // HOUR_MS % 24]


def _missing(events: pa.Table) -> tuple[int, int]:
    return events["watch_ms"].null_count, len(events)


def _positive(events: pa.Table) -> tuple[int, int]:
    return int(pc.sum(events["is_positive"]).as_py() or 0), len(events)


def _described(lake: Lake, files: list[str], count: int) -> dict[str, Any]:
    """[videos that have it, 2] for each modality: norm and mean component of the video's mean vector; and `videos`."""
    columns = [column for pair in MODALITIES.values() for column in pair]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in MODALITIES}
    videos = 0
    for batch in sample.feature_rows(lake, files, columns, count):
        videos += batch.num_rows
        for row in batch.to_pylist():
            for name, (column, width) in MODALITIES.items():
                if row[column] and row[width]:
                    vector = np.frombuffer(row[column], np.float16).reshape(-1, row[width]).astype(np.float32).mean(0)
                    found[name].append((float(np.linalg.norm(vector)), float(vector.mean())))
    return {name: np.array(rows).reshape(-1, 2) for name, rows in found.items()} | {"videos": videos}
