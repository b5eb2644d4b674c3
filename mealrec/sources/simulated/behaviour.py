"""What viewers do on a day: sessions, what they are shown, how long they watch, what they like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mealrec.sources.simulated.streams import Purpose, stream
from mealrec.sources.simulated.world import PERSISTENCE, VideoPlan, Viewer

FIRST_DAY_MS = 1_767_571_200_000  # 2026-01-05T00:00:00Z
DAY_MS = 86_400_000
TASTE_SHARE, POPULAR_SHARE = 0.65, 0.2  # of what is shown; the rest is random
ACCIDENT = 0.06  # long watches that mean nothing
LIKE = 0.2
DEVICES = ("android", "ios", "web")


@dataclass
class Memory:
    """What the platform has shown a viewer so far."""

    shown: set[int] = field(default_factory=set)


def day_events(
    seed: int, viewer: Viewer, day: int, released: list[VideoPlan], memory: Memory
) -> Iterator[dict[str, Any]]:
    """A viewer's events on one day, in order; fields of schema.EVENT_COLUMNS. Updates memory."""
    rng = stream(seed, Purpose.DAY, viewer.number, day)
    starts = np.sort(rng.uniform(0, DAY_MS * 0.95, rng.poisson(viewer.sessions_a_day)))
    number = 0
    for start in starts:
        clock, topic = FIRST_DAY_MS + day * DAY_MS + int(start), ""
        for _ in range(int(rng.integers(3, 9))):
            topic = _next_topic(rng, viewer, topic)
            plan = _show(rng, topic, released, memory)
            if plan is None:
                break
            events, clock = _watch(rng, viewer, plan, clock)
            for event in events:
                yield {"event_id": f"e{viewer.number:05d}-{day:03d}-{number:03d}", **event}
                number += 1


def _next_topic(rng: np.random.Generator, viewer: Viewer, topic: str) -> str:
    if topic and rng.random() < PERSISTENCE:
        return topic
    return str(rng.choice(list(viewer.taste), p=_normal(list(viewer.taste.values()))))


def _show(rng: np.random.Generator, topic: str, released: list[VideoPlan], memory: Memory) -> VideoPlan | None:
    """One video not shown before: by taste, by popularity, or at random."""
    fresh = [p for p in released if p.number not in memory.shown]
    way = rng.random()
    own = [p for p in fresh if p.topic == topic] if way < TASTE_SHARE else []
    pool = own or fresh
    if not pool:
        return None
    by_weight = bool(own) or way < TASTE_SHARE + POPULAR_SHARE
    chance = _normal([p.weight**2 if not own else p.weight for p in pool]) if by_weight else None
    plan = pool[int(rng.choice(len(pool), p=chance))]
    memory.shown.add(plan.number)
    return plan


def _watch(rng: np.random.Generator, viewer: Viewer, plan: VideoPlan, clock: int) -> tuple[list[dict[str, Any]], int]:
    likes_topic = plan.topic in viewer.taste
    ratio = rng.beta(5, 2) * 1.2 if likes_topic or rng.random() < ACCIDENT else rng.beta(1.2, 9)
    watched = max(int(ratio * plan.duration_ms), 1)
    event = {
        "user_id": viewer.user_id,
        "video_id": plan.video_id,
        "event_type": "view",
        "timestamp": clock,
        "watch_ms": watched,
        "duration_ms": plan.duration_ms,
        "device": str(rng.choice(DEVICES)),
    }
    clock += watched + int(rng.integers(500, 4000))
    events = [event]
    if likes_topic and ratio > 0.6 and rng.random() < LIKE:
        events.append(event | {"event_type": "like", "timestamp": clock - 200, "watch_ms": None})
    return events, clock


def _normal(weights: list[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(weights, dtype=np.float64)
    normal: np.ndarray[Any, np.dtype[np.float64]] = array / array.sum()
    return normal
