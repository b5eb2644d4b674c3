"""Stands in front of the replicas, inside Ray Serve's HTTP proxy: an answer is the app's own, or the documented 503.

When a replica dies, the proxy has nothing to say about the requests it held and they would end in a bare 500. Every route may
be asked twice (events are told apart by their id), so they are put to another replica instead. The body, read here anyway, goes
to the replica with the request: Ray Serve's own way is a call back to the proxy for it.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mealrec.serving.guard import BODY, RETRY_AFTER, Refusal, answer, headers_of, whole_body
from mealrec.serving.metrics import SIGNATURE

log = logging.getLogger("mealrec.serve")

IMPORT_PATH = f"{__name__}.middlewares"
ATTEMPTS = 3
PAUSE_S = 0.1


def middlewares() -> list[Middleware]:
    """Named by IMPORT_PATH in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH; called by the proxy as it starts."""
    return [Middleware(Front)]


class Answer:
    """An answer held back until it is whole."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.whole = False

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        self.whole = message["type"] == "http.response.body" and not message.get("more_body", False)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def is_signed(self) -> bool:
        return bool(self.messages) and any(name.lower() == SIGNATURE for name, _ in self.messages[0]["headers"])


class Front:
    """ASGI middleware. Memory: one body and one answer a request in flight."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if scope["path"].startswith("/-/"):  # Ray's own pages ask for no token
                raise Refusal(404, "Not Found")
            body = await whole_body(receive, headers_of(scope))
        except Refusal as refusal:
            await answer(send, refusal)
            return
        if body is None:
            return
        found = await self._ask(scope, body, receive)
        if found is None:
            await answer(send, Refusal(503, "no replica could answer; try again", RETRY_AFTER))
            return
        for message in found.messages:
            await send(message)

    async def _ask(self, scope: Scope, body: bytes, receive: Receive) -> Answer | None:
        """A whole answer of the app; None where there is none to be had just now."""
        gone = False

        async def listening() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        for attempt in range(1, ATTEMPTS + 1):
            found = Answer()
            await self.app({**scope, BODY: body}, listening, found.send)
            if found.whole and found.is_signed:
                return found
            if gone or found.status in (408, 503):  # the latter are the proxy's own: too much to do, or nobody there
                return None
            log.warning("attempt %d at %s found a dying replica (status %d)", attempt, scope["path"], found.status)
            await asyncio.sleep(PAUSE_S * attempt)
        return None
