"""What the nightly ingest will think of an event, said before it is accepted (spark_jobs.validate and sessionize in Spark)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mealrec.config import SessionizeConfig
from mealrec.serving.journal import line
from mealrec.serving.messages import Event

DAY_MS, MINUTE_MS = 86_400_000, 60_000
TEXTS = ("event_id", "user_id", "video_id", "device")  # an event_type is shorter than any limit
SLACK_MS = MINUTE_MS  # the journal writes an event so much later at most, maybe by another node's clock


def is_positive(event: Event, config: SessionizeConfig) -> bool:
    """Whether the event counts as liked."""
    if event.event_type in config.positive_events:
        return True
    if event.event_type != "view" or event.watch_ms is None or event.duration_ms is None:
        return False
    return event.watch_ms / event.duration_ms >= config.min_watch_ratio


def unfit(events: Sequence[Event], config: SessionizeConfig, now: datetime) -> list[dict[str, Any]]:
    """Events that the ingest would put into quarantine, as pydantic's errors: place, message, input. now: when they came, which
    makes the day in their journal file's name."""
    earliest, latest = _span(config, now)
    wrong: list[dict[str, Any]] = []

    def say(at: int, message: str, given: object, *field: str) -> None:
        wrong.append({"type": "value_error", "loc": ("body", "events", at, *field), "msg": message, "input": given})

    for at, event in enumerate(events):
        for name in TEXTS:
            if len((text := getattr(event, name) or "").encode()) > config.max_field_bytes:
                say(at, f"must not be longer than {config.max_field_bytes} bytes in UTF-8", text, name)
        if len(text := line(event)) > config.max_line_bytes:  # in ASCII
            say(at, f"must not be longer than {config.max_line_bytes} bytes as a line of JSON", text)
        if not earliest <= event.timestamp < latest:
            told = f"must be from {_shown(earliest)} to before {_shown(latest)} UTC"
            say(at, told, event.timestamp, "timestamp")
        most = config.max_watch_ratio
        if event.watch_ms is not None and event.duration_ms is not None and event.watch_ms > most * event.duration_ms:
            say(at, f"must not exceed {most:g} times duration_ms", event.watch_ms, "watch_ms")
    return wrong


def _span(config: SessionizeConfig, now: datetime) -> tuple[int, int]:
    """From when to before when (ms) a time is believed, whether the journal's day is that of a little before or after."""
    earliest, latest = _ms(datetime.fromisoformat(config.earliest)), _ms(datetime.fromisoformat(config.latest))
    if config.late_days is not None:
        earliest = max(earliest, _midnight(_ms(now) + SLACK_MS) - config.late_days * DAY_MS)
    if config.clock_skew_minutes is not None:
        latest = min(latest, _midnight(_ms(now) - SLACK_MS) + DAY_MS + config.clock_skew_minutes * MINUTE_MS)
    return earliest, latest


def _midnight(ms: int) -> int:
    return ms - ms % DAY_MS


def _ms(time: datetime) -> int:
    """A time without a zone is UTC."""
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _shown(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"
