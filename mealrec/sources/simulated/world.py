"""The platform's plan: topics, videos with salient segments, viewers with tastes. Pure functions of the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mealrec.sources.simulated.streams import Purpose, stream

TOPICS = ("cooking", "dance", "football", "kittens", "travel", "makeup", "gaming", "guitar")
WORDS = {
    "cooking": ("noodle", "recipe", "kitchen", "spicy", "soup"),
    "dance": ("choreography", "steps", "ballroom", "dancer", "rhythm"),
    "football": ("goal", "striker", "stadium", "penalty", "league"),
    "kittens": ("kitten", "cat", "purring", "whiskers", "paws"),
    "travel": ("island", "mountain", "train", "journey", "beach"),
    "makeup": ("lipstick", "eyeliner", "beauty", "mascara", "skincare"),
    "gaming": ("boss", "level", "console", "speedrun", "quest"),
    "guitar": ("guitar", "chords", "solo", "strings", "melody"),
}
FILLER = ("today", "wow", "you will not believe", "part two", "my favourite", "so good", "a day with", "best of")
BACKGROUNDS = 3
PERSISTENCE = 0.45  # a session stays with its topic with this probability


@dataclass(frozen=True)
class VideoPlan:
    """One video before it is drawn; segments_ms are the salient spans, the rest is shared background."""

    number: int
    video_id: str
    topic: str
    title: str | None
    duration_ms: int
    segments_ms: tuple[tuple[int, int], ...]
    background: int
    has_sound: bool
    release_day: int
    weight: float
    fault: str | None


@dataclass(frozen=True)
class Viewer:
    """A viewer with a taste over topics that sums to 1 and an activity in sessions a day."""

    number: int
    user_id: str
    taste: dict[str, float]
    sessions_a_day: float


def plan_videos(seed: int, videos: int, days: int, extra_days: int = 0) -> list[VideoPlan]:
    """The catalogue's plan; each extra day releases max(1, videos // 50) more."""
    faults = _faults(seed, videos)
    base = [_plan(seed, n, days, faults.get(n)) for n in range(videos)]
    daily = max(1, videos // 50)
    late = [_plan(seed, videos + n, days, None, release=days + n // daily) for n in range(daily * extra_days)]
    return base + late


def plan_viewers(seed: int, viewers: int) -> list[Viewer]:
    return [_viewer(seed, n) for n in range(viewers)]


def _plan(seed: int, number: int, days: int, fault: str | None, release: int | None = None) -> VideoPlan:
    rng = stream(seed, Purpose.VIDEO, number)
    topic = TOPICS[int(rng.integers(len(TOPICS)))]
    duration = int(rng.integers(3000, 8001))
    words = [*rng.choice(WORDS[topic], 2, replace=False), str(rng.choice(FILLER))]
    rng.shuffle(words)
    # most of the catalogue is there from the start, the rest appears day by day
    appears = 0 if rng.random() < 0.7 else int(rng.integers(0, max(days - 1, 1)))
    return VideoPlan(
        number=number,
        video_id=f"v{number:05d}",
        topic=topic,
        title=None if fault == "no_title" else " ".join(words),
        duration_ms=duration,
        segments_ms=_segments(rng, duration),
        background=int(rng.integers(BACKGROUNDS)),
        has_sound=fault != "no_sound",
        release_day=appears if release is None else release,
        weight=float(rng.lognormal(0.0, 0.6)),
        fault=fault,
    )


def _segments(rng: np.random.Generator, duration: int) -> tuple[tuple[int, int], ...]:
    """One or two spans that cover 30 to 50 % of the video."""
    length = int(duration * rng.uniform(0.3, 0.5))
    if rng.random() < 0.5:
        start = int(rng.integers(0, duration - length))
        return ((start, start + length),)
    half = length // 2
    first = int(rng.integers(0, duration // 2 - half))
    second = int(rng.integers(duration // 2, duration - half))
    return ((first, first + half), (second, second + half))


def _faults(seed: int, videos: int) -> dict[int, str]:
    """Which videos are broken or lack something: max(1, videos // 60) of each kind."""
    kinds = ("missing_file", "empty_file", "not_a_video", "unreadable", "no_sound", "no_title")
    each = max(1, videos // 60)
    chosen = stream(seed, Purpose.FAULT).choice(videos, size=min(each * len(kinds), videos), replace=False)
    return {int(number): kinds[i % len(kinds)] for i, number in enumerate(chosen)}


def _viewer(seed: int, number: int) -> Viewer:
    rng = stream(seed, Purpose.VIEWER, number)
    count = int(rng.integers(1, 4))
    topics = rng.choice(TOPICS, count, replace=False)
    weights = rng.dirichlet(np.full(count, 3.0))
    taste = {str(t): round(float(w), 4) for t, w in zip(topics, weights, strict=True)}
    return Viewer(number, f"u{number:05d}", taste, float(rng.uniform(0.5, 1.1)))
