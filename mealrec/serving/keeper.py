"""The one actor that all replicas share: it keeps viewers' states and the journal, and what each replica last counted.

It lives on the node where `mealrec serve` was started, because the journal is on that node's disk. When its process dies, Ray
starts it again and it takes in the journal; calls wait for that, up to a time, and may be repeated since events carry ids.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from anyio import to_thread
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mealrec.config import RunConfig
from mealrec.console import show_progress
from mealrec.serving.messages import Event
from mealrec.serving.nearby import Nearby
from mealrec.serving.process import states_of
from mealrec.serving.states import Accepted, Unavailable

log = logging.getLogger("mealrec.serve")

NAMESPACE, NAME = "mealrec", "keeper"
THREADS = 4
CALL_S = 5.0
FORGET_S = 600.0


class Keeper:
    """ViewerStates in a process of its own."""

    def __init__(self, config: dict[str, Any]) -> None:
        show_progress()
        self.states = states_of(RunConfig.model_validate(config))
        self.texts: dict[str, tuple[float, str]] = {}

    def history(self, user_id: str) -> list[str]:
        return self.states.history(user_id)

    def place(self) -> tuple[str, str]:
        """The node it lives on, for good, and the folder of its files there."""
        return ray.get_runtime_context().get_node_id(), str(self.states.folder)

    def accept(self, events: list[dict[str, Any]]) -> tuple[int, int]:
        return self.states.accept([Event.model_validate(event) for event in events])

    def report(self, replica: str, text: str) -> dict[str, str]:
        """Note what a replica counted; returns what the others did. Replicas not heard of for long are forgotten."""
        now = time.monotonic()
        self.texts[replica] = (now, text)
        return {name: kept for name, (at, kept) in list(self.texts.items()) if name != replica and now - at < FORGET_S}


def start(config: RunConfig) -> Any:
    """Start the keeper on this node, or find the one that is there; returns its handle."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "max_restarts": -1, "max_task_retries": -1}
    actor = ray.remote(Keeper).options(num_cpus=0, max_concurrency=THREADS, scheduling_strategy=here, **options)
    return actor.remote(config.model_dump(mode="json"))


class RemoteStates:
    """mealrec.serving.states.States over the keeper."""

    def __init__(self) -> None:
        self.keeper = ray.get_actor(NAME, NAMESPACE)
        self._place: tuple[str, str] | None = None
        self._nearby: Nearby | None = None

    async def history(self, user_id: str) -> list[str]:
        """Read from the keeper's files where they are on this node, else asked of the keeper."""
        try:
            nearby = await self._files()
            if nearby is not None:
                return await to_thread.run_sync(nearby.history, user_id)
        except (OSError, sqlite3.Error) as error:
            log.info("viewers' files can't be read just now, the keeper is asked: %s", error)
        found: list[str] = await self._call("history", user_id)
        return found

    async def reach(self) -> None:
        """Raises Unavailable unless the keeper answers."""
        self._place = await self._call("place")

    async def accept(self, events: Sequence[Event]) -> Accepted:
        return Accepted(*await self._call("accept", [event.model_dump() for event in events]))

    async def report(self, replica: str, text: str) -> dict[str, str]:
        """What the other replicas last counted. Raises Unavailable."""
        found: dict[str, str] = await self._call("report", replica, text)
        return found

    async def _files(self) -> Nearby | None:
        if self._place is None:
            await self.reach()
        assert self._place is not None
        node, folder = self._place
        if self._nearby is None and node == ray.get_runtime_context().get_node_id():
            self._nearby = Nearby(Path(folder))
        return self._nearby

    async def _call(self, method: str, *arguments: object) -> Any:
        try:
            return await asyncio.wait_for(getattr(self.keeper, method).remote(*arguments), CALL_S)
        except TimeoutError:
            raise Unavailable(f"viewer states did not answer within {CALL_S:g} s") from None
        except (RayActorError, RayTaskError) as error:
            log.warning("keeper.%s failed: %s", method, error)
            raise Unavailable("viewer states can't be reached or written just now") from error
