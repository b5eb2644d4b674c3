"""The proxy's middleware: whatever happens behind it, the client gets the app's own answer or the documented 503."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from mealrec.serving import front, guard
from mealrec.serving.guard import BODY
from mealrec.serving.messages import MAX_BODY_BYTES

Behaviour = Callable[[Scope, Receive, Send], Awaitable[None]]


async def died(scope: Scope, receive: Receive, send: Send) -> None:
    """What Ray's proxy does when the replica dies: nothing."""


async def died_half_way(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-replica", b"r1")]})
    await send({"type": "http.response.body", "body": b'{"half', "more_body": True})


async def good(scope: Scope, receive: Receive, send: Send) -> None:
    body = scope[BODY].decode()
    await JSONResponse({"got": body}, 200, {"x-replica": "r1"})(scope, receive, send)


def says(status: int, **headers: str) -> Behaviour:
    async def behaviour(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("from the proxy", status, headers)(scope, receive, send)

    return behaviour


class Proxy:
    """Behaves as told, one behaviour an ask, and remembers how often it was asked."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours, self.asked = list(behaviours), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self.behaviours.pop(0)(scope, receive, send)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "PAUSE_S", 0)


def post(proxy: Proxy, path: str = "/recommend", **content: Any) -> Any:
    return TestClient(front.Front(proxy), base_url="http://127.0.0.1").post(path, **content)


@pytest.mark.parametrize("fault", [died, died_half_way, says(500), says(404)])
def test_a_request_whose_replica_died_is_put_to_another_one_with_its_body(fault: Behaviour) -> None:
    proxy = Proxy(fault, fault, good)
    answer = post(proxy, content=b"the body")
    assert (answer.status_code, answer.json(), proxy.asked) == (200, {"got": "the body"}, 3)


def test_when_every_replica_dies_the_answer_is_the_documented_503() -> None:
    answer = post(Proxy(died, died, died))
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
    assert answer.json()["error"].startswith("no replica could answer")


@pytest.mark.parametrize("status", [408, 503])
def test_what_the_proxy_refuses_itself_is_not_asked_again(status: int) -> None:
    proxy = Proxy(says(status))
    answer = post(proxy)
    assert (answer.status_code, answer.headers["Retry-After"], proxy.asked) == (503, "1", 1)


@pytest.mark.parametrize("status", [422, 500, 503])
def test_the_apps_own_answer_goes_through_as_it_is(status: int) -> None:
    answer = post(Proxy(says(status, **{"x-replica": "r1", "Retry-After": "7"})))
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (status, "from the proxy", "7")


def test_rays_own_pages_and_too_large_bodies_stop_here() -> None:
    proxy = Proxy()
    assert post(proxy, "/-/routes").status_code == 404
    assert post(proxy, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413
    assert proxy.asked == 0


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(guard.Refusal, match=r"400.*did not arrive within 0.05 s.*close"):
        asyncio.run(guard.whole_body(receive, {}))
