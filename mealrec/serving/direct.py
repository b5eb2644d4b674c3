"""The endpoint in one process, without Ray Serve: no proxy and no actor stand between a request and the model.

One model, one event loop. Nothing here replaces the process when it dies: that is for what runs it (systemd, Kubernetes). The
journal and the viewers' files on disk are those of the replicas, so a restart loses no acknowledged event.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from mealrec.config import RunConfig
from mealrec.serving.app import build
from mealrec.serving.messages import Event
from mealrec.serving.nearby import Nearby
from mealrec.serving.process import address_of, models_of, states_of
from mealrec.serving.states import Accepted, Unavailable
from mealrec.serving.viewers import ViewerStates
from mealrec.serving.world import World

DRAIN_S = 10
KEEP_ALIVE_S = 90  # of an idle connection: longer than most clients keep one


class OwnStates:
    """mealrec.serving.states.States of this process."""

    def __init__(self, states: ViewerStates) -> None:
        self.states = states
        self.reader = Nearby(states.folder)  # a connection that never waits for the one that writes

    async def history(self, user_id: str) -> list[str]:
        try:
            return self.reader.history(user_id)  # some 0.1 ms: less than the way to a thread and back
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"viewer states can't be read just now: {error}") from error

    async def accept(self, events: Sequence[Event]) -> Accepted:
        try:
            return await to_thread.run_sync(self.states.accept, events)
        except (OSError, sqlite3.Error) as error:
            raise Unavailable(f"events can't be written just now: {error}") from error

    async def reach(self) -> None:
        await self.history("")

    def close(self) -> None:
        self.reader.close()


@contextlib.contextmanager
def running(config: RunConfig, token_digest: bytes | None) -> Iterator[str]:
    """Serve from a thread of this process; yields the address, and answers what is in flight before it ends."""
    with contextlib.closing(states_of(config)) as states, contextlib.closing(OwnStates(states)) as own:
        yield from _served(config, token_digest, own)


def _served(config: RunConfig, token_digest: bytes | None, states: OwnStates) -> Iterator[str]:
    settings, models = config.serve, models_of(config)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        models.follow(settings.poll_s)
        try:
            yield
        finally:
            await to_thread.run_sync(models.close)

    world, name = World(config), str(os.getpid())
    app = build(models, states, world, settings, token_digest=token_digest, replica=name, life=life)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            settings.host,
            settings.port,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    thread = threading.Thread(target=server.run, name="endpoint")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError(f"the endpoint did not start on {settings.host} port {settings.port}")
            time.sleep(0.05)
        yield address_of(settings)
    finally:
        server.should_exit = True
        thread.join()
