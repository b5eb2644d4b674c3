"""The endpoint: recommendations, events, salience, health and metrics over whatever models and viewer states it is given."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mealrec import __version__
from mealrec.config import ServeConfig
from mealrec.serving import page
from mealrec.serving.api import router
from mealrec.serving.guard import LOOPBACK, OPEN_PATHS, Guard, Limits, Refusal, answer
from mealrec.serving.messages import FieldProblem, problem
from mealrec.serving.metrics import Measured, Metrics, Peers, alone
from mealrec.serving.models import Models, NoModel
from mealrec.serving.states import States, Unavailable
from mealrec.serving.world import World

log = logging.getLogger("mealrec.serve")
SHOWN = 200  # characters of a wrong value that an answer repeats


def build(
    models: Models,
    states: States,
    world: World,
    settings: ServeConfig,
    *,
    token_digest: bytes | None = None,
    replica: str = "",
    peers: Peers = alone,
    life: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The app. Handlers find models, states, world and settings in `request.app.state`.

    token_digest: SHA-256 of the bearer token; None asks for none. replica: this process's name in metrics and answers'
    headers; peers: what the other replicas last counted; life: entered when the server starts, left when it stops. Model
    work goes one request at a time through a thread, so that the event loop goes on answering probes and refusing what is
    too much."""
    app = FastAPI(title="MealRec", version=__version__, docs_url=None, redoc_url=None, lifespan=life)
    app.state.models, app.state.states, app.state.world, app.state.settings = models, states, world, settings
    app.state.metrics, app.state.replica, app.state.peers = Metrics(models), replica, peers
    app.state.one_at_a_time = CapacityLimiter(1)
    app.include_router(router)
    app.include_router(page.router)
    _explain_errors(app, settings)
    limits = Limits(settings.max_in_flight, token_digest, settings.host in LOOPBACK)
    app.add_middleware(Guard, limits=limits)
    app.add_middleware(Mistakes)
    app.add_middleware(Measured, metrics=app.state.metrics, replica=replica)
    if token_digest is not None:
        _document_token(app)
    return app


class Mistakes:
    """ASGI middleware: what fails in the app is a 500 of the app's own. A handler for Exception would stand outside of every
    middleware, where its answer is neither signed nor in the measured time."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception:
            if begun or scope["type"] != "http":
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await answer(send, Refusal(500, "internal error; the server's log says more"))


def _explain_errors(app: FastAPI, settings: ServeConfig) -> None:
    """Every refusal has the same body (messages.Problem)."""

    async def wrong_field(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fields = [
            FieldProblem(
                field=_shown(".".join(str(part) for part in item["loc"])),
                problem=_shown(str(item["msg"])),
                given=_shown(repr(item.get("input"))),
            )
            for item in error.errors()
        ]
        return JSONResponse(problem("the request has wrong fields", *fields[:20]), 422)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse(problem(_shown(str(error.detail))), error.status_code, dict(error.headers or {}))

    async def not_now(request: Request, error: Exception) -> Response:
        after = math.ceil(settings.poll_s) if isinstance(error, NoModel) else 1
        return JSONResponse(problem(str(error)), 503, {"Retry-After": str(after)})

    app.add_exception_handler(RequestValidationError, wrong_field)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(NoModel, not_now)
    app.add_exception_handler(Unavailable, not_now)


def _shown(text: str) -> str:
    """Cut short, and without what can't be encoded."""
    return text[:SHOWN].encode("utf-8", "replace").decode()


def _document_token(app: FastAPI) -> None:
    """The schema says that every route but the open ones wants the bearer token, and answers 401 without it."""
    plain = app.openapi

    def documented() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            body = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
            for path, methods in schema["paths"].items():
                for operation in methods.values():
                    if path not in OPEN_PATHS:
                        operation["security"] = [{"token": []}]
                        operation["responses"]["401"] = {"description": "no token, or a wrong one", "content": body}
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = documented  # type: ignore[method-assign]
