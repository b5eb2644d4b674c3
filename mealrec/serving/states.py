"""What the endpoint needs to know of viewers: an interface, so that the app runs beside a Ray actor or without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mealrec.serving.messages import Event


class Unavailable(RuntimeError):
    """Viewer states can't be read or events can't be written just now; the same request may be sent again."""


class Accepted(NamedTuple):
    """Events written to the journal by this call, and those whose event_id had been accepted before."""

    accepted: int
    duplicates: int


class States(Protocol):
    """Viewers' histories. Every method raises Unavailable."""

    async def history(self, user_id: str) -> list[str]:
        """Video ids that the viewer liked, oldest first, each once; empty for an unknown viewer."""
        ...

    async def accept(self, events: Sequence[Event]) -> Accepted:
        """Returns once the events are on disk: all of them or, when it raises, possibly some. Sending an event_id again
        changes nothing."""
        ...

    async def reach(self) -> None:
        """Returns when histories can be read and events written."""
        ...
