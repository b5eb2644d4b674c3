"""The routes of the programming interface. Models, states and metrics come from `request.app.state`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST

from mealrec.serving.answers import recommend as recommended
from mealrec.serving.answers import salience as salient
from mealrec.serving.events import unfit
from mealrec.serving.messages import (
    EventsAnswer,
    EventsRequest,
    Health,
    Id,
    Problem,
    RecommendAnswer,
    RecommendRequest,
    SalienceAnswer,
)
from mealrec.serving.metrics import merged
from mealrec.serving.models import NoModel
from mealrec.serving.states import Unavailable

router = APIRouter()
T = TypeVar("T")

Responses = dict[int | str, dict[str, Any]]

RETRY_HEADER = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
NOT_READY: Responses = {503: {"model": Health, "description": "alive, but not ready", "headers": RETRY_HEADER}}
PROMETHEUS: Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "for Prometheus"}
}


def _problems(*statuses: int) -> Responses:
    """The documented refusals of a route, all with the same body."""
    words = {
        400: "malformed request",
        404: "no such video in the model that serves",
        413: "the body is too large",
        415: "the body is not JSON",
        422: "a field is wrong: which, why and what was given",
        503: "no model yet, viewer states out of reach, or overloaded: try again later",
    }
    made: Responses = {s: {"model": Problem, "description": words[s]} for s in statuses}
    if 503 in made:
        made[503]["headers"] = RETRY_HEADER
    return made


@router.post("/recommend", response_model=RecommendAnswer, responses=_problems(400, 413, 415, 422, 503))
async def recommend(asked: RecommendRequest, request: Request) -> Response:
    """Videos for a viewer, or for a history of video ids."""
    state = request.app.state
    served = state.models.get()
    history = asked.history or []
    if asked.user_id is not None:
        history = await state.states.history(asked.user_id)
    rerank = state.settings.rerank
    made = await _work(request, lambda waited: recommended(served, asked, history, waited=waited, rerank=rerank))
    metrics = state.metrics
    for reason in ([made.fallback] if made.fallback else []) + (["late"] if made.skipped else []):
        metrics.fallbacks.labels(reason).inc()
    metrics.unknown.inc(made.unknown)
    if made.fallback is None and not made.skipped:
        metrics.unusual.observe(made.unusual)
    return Response(made.model_dump_json(), media_type="application/json")  # it is checked: FastAPI would do so again


@router.post("/events", responses=_problems(400, 413, 415, 422, 503))
async def events(sent: EventsRequest, request: Request) -> EventsAnswer:
    """Accept viewers' events: on disk when this answers, and part of the viewers' histories from then on."""
    state = request.app.state
    wrong = unfit(sent.events, state.world.config.sessionize, datetime.now(UTC))
    if wrong:
        raise RequestValidationError(wrong)
    done = await state.states.accept(sent.events)
    state.metrics.events.labels("accepted").inc(done.accepted)
    state.metrics.events.labels("duplicate").inc(done.duplicates)
    return EventsAnswer(accepted=done.accepted, duplicates=done.duplicates)


@router.get("/videos/{video_id}/salience", responses=_problems(400, 404, 413, 422, 503))
async def salience(
    request: Request,
    video_id: Annotated[Id, Path()],
    user_id: Annotated[Id | None, Query(description="weigh the frames as this viewer would")] = None,
) -> SalienceAnswer:
    """How much each frame of a video counts."""
    state = request.app.state
    served = state.models.get()
    if video_id not in served.recommender.index:
        raise HTTPException(404, f"version {served.version} does not know video {video_id!r}")
    history = [] if user_id is None else await state.states.history(user_id)
    return await _work(request, lambda waited: salient(served, video_id, None if waited > 1 else user_id, history))


@router.get("/healthz", responses=NOT_READY | _problems(400, 413))
async def health(request: Request, response: Response) -> Health:
    """Alive (there is an answer) and ready (200): which version serves, and since when."""
    state = request.app.state
    try:
        served = state.models.get()
        await state.states.reach()
    except (NoModel, Unavailable) as error:
        response.status_code = 503
        response.headers["Retry-After"] = "1"
        return Health(ready=False, model_version=None, loaded=None, age_s=None, problem=str(error))
    age = (datetime.now(UTC) - served.loaded_time).total_seconds()
    return Health(ready=True, model_version=served.version, loaded=served.loaded, age_s=round(age, 3), problem=None)


@router.get("/metrics", response_class=Response, responses=PROMETHEUS | _problems(400, 413, 503))
async def metrics(request: Request) -> Response:
    """Counters and histograms of every replica (the others' are a few seconds old)."""
    state = request.app.state
    texts = {**await state.peers(), state.replica: state.metrics.text()}
    return Response(merged(texts), media_type=CONTENT_TYPE_LATEST)


async def _work(request: Request, work: Callable[[float], T]) -> T:
    """Model work in a thread, one at a time; it is told how many deadlines the request had waited by then."""
    state = request.app.state
    async with state.one_at_a_time:
        waited = time.monotonic() - request.scope["state"]["arrived"]
        return await to_thread.run_sync(work, waited * 1000 / state.settings.deadline_ms)
