"""What the nightly ingest will think of an event, said before it is accepted (spark_jobs.validate and sessionize in Spark)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mealrec.config import SessionizeConfig
from mealrec.serving.messages import Event


def is_positive(event: Event, config: SessionizeConfig) -> bool:
    """Whether the event counts as liked."""
    if event.event_type in config.positive_events:
        return True
    if event.event_type != "view" or event.watch_ms is None or event.duration_ms is None:
        return False
    return event.watch_ms / event.duration_ms >= config.min_watch_ratio


def unfit(events: Sequence[Event], config: SessionizeConfig) -> list[dict[str, Any]]:
    """Events that the ingest would put into quarantine, as pydantic's errors: place, message, input."""
    earliest, latest = _ms(config.earliest), _ms(config.latest)
    wrong: list[dict[str, Any]] = []

    def say(at: int, field: str, message: str, given: object) -> None:
        wrong.append({"type": "value_error", "loc": ("body", "events", at, field), "msg": message, "input": given})

    for at, event in enumerate(events):
        if not earliest <= event.timestamp < latest:
            say(at, "timestamp", f"must be from {config.earliest} to before {config.latest}", event.timestamp)
        most = config.max_watch_ratio
        if event.watch_ms is not None and event.duration_ms is not None and event.watch_ms > most * event.duration_ms:
            say(at, "watch_ms", f"must not exceed {most:g} times duration_ms", event.watch_ms)
    return wrong


def _ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)
