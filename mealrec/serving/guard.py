"""What a request must pass before the app sees it: host, token, content type, size, a place in the queue."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mealrec.serving.messages import MAX_BODY_BYTES, problem

PAGE_FILES = ("/", "/page/app.js", "/page/charts.js", "/page/style.css")  # no data in them; the page asks for a token
OPEN_PATHS = ("/healthz", *PAGE_FILES)  # probes carry no token, and are answered under any load
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
RETRY_AFTER = {"Retry-After": "1"}
BODY_S = 10.0
TOO_LARGE = f"the body must not exceed {MAX_BODY_BYTES} bytes"
BODY = "mealrec.body"  # where the proxy's middleware puts a whole body into the scope: fetching it costs a call to the proxy


@dataclass(frozen=True)
class Limits:
    """token_digest: SHA-256 of the bearer token, None where none is asked; in_flight: requests held at a time."""

    in_flight: int
    token_digest: bytes | None = None
    loopback: bool = True


@dataclass(frozen=True)
class Refusal(Exception):
    """Why a request does not reach the app."""

    status: int
    error: str
    headers: Mapping[str, str] | None = None


class Guard:
    """ASGI middleware. Reads the whole body (bounded) before it takes a place in the queue, so that slow senders hold none."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits, self.in_flight = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = headers_of(scope)
        try:
            self._admit(scope, headers)
            body = scope[BODY] if BODY in scope else await whole_body(receive, headers)
        except Refusal as refusal:
            await answer(send, refusal)
            return
        if body is None:
            return  # the client went away
        scope.setdefault("state", {})["arrived"] = time.monotonic()
        if scope["path"] in OPEN_PATHS:
            await self.app(scope, replay(body, receive), send)
            return
        if self.in_flight >= self.limits.in_flight:
            await answer(send, Refusal(503, f"overloaded: {self.in_flight} requests are being answered", RETRY_AFTER))
            return
        self.in_flight += 1
        try:
            await self.app(scope, replay(body, receive), send)
        finally:
            self.in_flight -= 1

    def _admit(self, scope: Scope, headers: Mapping[str, str]) -> None:
        digest = self.limits.token_digest
        if digest is None and self.limits.loopback and _hostname(headers.get("host", "")) not in LOOPBACK:
            # a page of another site may have pointed its own name at this address
            raise Refusal(
                400, f"host must be one of {', '.join(LOOPBACK)}: without a token only this machine is served"
            )
        if digest is not None and scope["path"] not in OPEN_PATHS and not is_token(headers, digest):
            raise Refusal(401, "give the token: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"})
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise Refusal(415, f"content type must be application/json, got {kind[:100] or 'none'!r}")


async def whole_body(receive: Receive, headers: Mapping[str, str]) -> bytes | None:
    """The request's body; None when the client went away. Raises Refusal as soon as it is known to be too large (413), and
    when it takes longer than BODY_S (400)."""
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise Refusal(413, TOO_LARGE)
    try:
        async with asyncio.timeout(BODY_S):
            return await _collected(receive)
    except TimeoutError:
        late = f"the body did not arrive within {BODY_S:g} s"
        raise Refusal(400, late, {"Connection": "close"}) from None


async def _collected(receive: Receive) -> bytes | None:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise Refusal(413, TOO_LARGE)
        if not message.get("more_body", False):
            return b"".join(parts)


def is_token(headers: Mapping[str, str], digest: bytes) -> bool:
    """Whether the bearer token's SHA-256 is `digest`; takes as long for a wrong one as for the right one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = hashlib.sha256(token.strip().encode("latin-1")).digest()
    return hmac.compare_digest(given, digest) and scheme.lower() == "bearer"


async def answer(send: Send, refusal: Refusal) -> None:
    """The refusal as the app's own problem message."""
    body = json.dumps(problem(refusal.error)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(refusal.headers or {})}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _hostname(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body first, then whatever the server has to say (that the client went away)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
