"""The endpoint on Ray Serve: replicas that hold the model, one keeper of viewer states, one HTTP proxy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from mealrec.config import RunConfig
from mealrec.console import show_progress
from mealrec.serving import front, keeper
from mealrec.serving.app import build
from mealrec.serving.models import Models
from mealrec.serving.process import address_of, models_of
from mealrec.serving.states import Unavailable
from mealrec.serving.world import World

log = logging.getLogger("mealrec.serve")

APPLICATION, ENDPOINT = "mealrec", "endpoint"
REPORT_S = 2.0
REQUEST_S = 10.0  # the proxy gives up on a request after that: 503
DRAIN_S = 10.0
ROOM_FOR_PROBES = 8
# a request stays in one event loop instead of being handed from thread to thread: our routes never block theirs
ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}


@contextlib.contextmanager
def running(config: RunConfig, token_digest: bytes | None) -> Iterator[str]:
    """The endpoint on the connected Ray cluster; yields its address and takes it down at the end, requests answered first."""
    settings = config.serve
    held = keeper.start(config)
    # proxy and replicas are children of the controller and inherit its environment
    environment = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": front.IMPORT_PATH, **ONE_LOOP}
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port, "request_timeout_s": REQUEST_S},
        controller_options={"runtime_env": {"env_vars": environment}},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    try:
        serve.run(_application(config, token_digest), name=APPLICATION, route_prefix="/")
        yield address_of(settings)
    finally:
        serve.shutdown()
        ray.kill(held)


def _application(config: RunConfig, token_digest: bytes | None) -> Any:
    def on_replica() -> FastAPI:
        return replica_app(config, token_digest)

    settings = config.serve
    endpoint = serve.deployment(
        serve.ingress(on_replica)(Endpoint),
        name=ENDPOINT,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": 1},
        max_ongoing_requests=settings.max_in_flight + ROOM_FOR_PROBES,
        max_queued_requests=2 * settings.max_in_flight,
        graceful_shutdown_timeout_s=DRAIN_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
    )
    return endpoint.bind()


class Endpoint:
    """A replica. Ray Serve replaces it when it is not healthy."""

    _asgi_app: FastAPI  # set by serve.ingress

    def check_health(self) -> None:
        """Raises RuntimeError when the model would never change again."""
        models: Models = self._asgi_app.state.models
        if not models.is_following:
            raise RuntimeError("the thread that follows the registry has died")


def replica_app(config: RunConfig, token_digest: bytes | None) -> FastAPI:
    """The app of one replica, built in its process, with the champion loaded where there is one."""
    show_progress()
    models = models_of(config)
    states = keeper.RemoteStates()
    replica = serve.get_replica_context().replica_id.unique_id
    others: dict[str, str] = {}

    async def peers() -> dict[str, str]:
        return others

    async def report(app: FastAPI) -> None:
        nonlocal others
        while True:
            try:
                others = await states.report(replica, app.state.metrics.text())
            except Unavailable as error:
                log.warning("metrics of the other replicas are out of date: %s", error)
            await asyncio.sleep(REPORT_S)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        models.follow(config.serve.poll_s)
        reporting = asyncio.create_task(report(app))
        try:
            yield
        finally:
            reporting.cancel()
            await asyncio.to_thread(models.close)

    world = World(config)
    digest = token_digest
    return build(models, states, world, config.serve, token_digest=digest, replica=replica, peers=peers, life=life)
