"""The page: static files of the package, and the JSON that they ask for. All of it is read-only."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response

from mealrec.registry.promotion import PromotionError
from mealrec.serving.gallery import MOST_VIEWERS, Gallery
from mealrec.serving.guard import PAGE_FILES
from mealrec.serving.messages import Id
from mealrec.serving.models import NoModel
from mealrec.serving.run_report import run_report
from mealrec.serving.strips import dressed, strips

router = APIRouter(include_in_schema=False)

STATIC = dict(zip(PAGE_FILES, ("index.html", "app.js", "charts.js", "style.css"), strict=True))
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
HISTORY_SHOWN, RECOMMENDED_SHOWN = 10, 10
Alias = Literal["champion", "challenger"]


def static(path: str) -> Response:
    name = STATIC[path]
    body = resources.files("mealrec.serving").joinpath("page_files", name).read_bytes()
    return Response(body, media_type=TYPES[name.rpartition(".")[2]], headers=HEADERS)


for _path in STATIC:
    router.add_api_route(_path, lambda path=_path: static(path), methods=["GET"])


@router.get("/page/viewers")
async def viewers(
    request: Request,
    q: Annotated[str, Query(max_length=256)] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_VIEWERS)] = 20,
) -> dict[str, Any]:
    """Viewers whose id begins with q."""
    found = await to_thread.run_sync(_gallery(request).viewers, q, limit)
    return {"viewers": [{"user_id": user, "length": length} for user, length in found]}


@router.get("/page/viewers/{user_id}")
async def viewer(request: Request, user_id: Annotated[Id, Path()], alias: Alias = "champion") -> dict[str, Any]:
    """History and recommendations of a viewer as strips, by the version an alias stands on."""
    state = request.app.state
    served = state.models.get(alias)
    history = await state.states.history(user_id)
    gallery = _gallery(request)
    async with state.one_at_a_time:
        shown = await to_thread.run_sync(strips, served.recommender, history, RECOMMENDED_SHOWN, HISTORY_SHOWN)
    watched, best, videos = shown

    def dress() -> dict[str, Any]:
        near = [n["video_id"] for strip in best for n in strip["nearest"]]
        titles, pictures = gallery.titles([*videos, *near]), gallery.pictures(videos)
        return {
            "user_id": user_id,
            "alias": alias,
            "version": served.version,
            "length": len(history),
            "history": [dressed(strip, titles, pictures) for strip in watched],
            "recommended": [dressed(strip, titles, pictures) for strip in best],
        }

    return await to_thread.run_sync(dress)


@router.get("/page/run")
async def run(request: Request, alias: Alias = "champion") -> dict[str, Any]:
    """The run behind the version an alias stands on."""
    served = request.app.state.models.get(alias)
    try:
        return await to_thread.run_sync(run_report, request.app.state.world, served.version)
    except PromotionError as error:
        raise HTTPException(404, str(error)) from None


@router.get("/page/aliases")
async def aliases(request: Request) -> dict[str, Any]:
    """Which versions serve."""
    found: dict[str, dict[str, str] | None] = {}
    for alias in ("champion", "challenger"):
        try:
            served = request.app.state.models.get(alias)
            found[alias] = {"version": served.version, "loaded": served.loaded}
        except NoModel:
            found[alias] = None
    return {"model": request.app.state.world.config.registry.model_name, "aliases": found}


def _gallery(request: Request) -> Gallery:
    state = request.app.state
    if not hasattr(state, "gallery"):
        state.gallery = Gallery(state.world)
    gallery: Gallery = state.gallery
    return gallery
