"""Titles on the page: the catalogue is read once a change, and nobody's recommendation waits for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mealrec.config import RunConfig, ServeConfig
from mealrec.serving.app import build
from mealrec.serving.gallery import Gallery
from mealrec.serving.models import Models
from mealrec.serving.world import World
from mealrec.sources.landing import Landing
from tests.serving.test_app import InProcess, client_of, models, states
from tests.serving.test_journal import write_sequences

__all__ = ["models", "states"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    source = {"kind": "landing", "directory": str(tmp_path / "landing")}
    (tmp_path / "landing").mkdir()
    return World(RunConfig.model_validate({"lake": str(tmp_path / "lake"), "source": source}))


def write_catalogue(world: World, **titles: str) -> None:
    rows = [{"video_id": video, "uri": f"{video}.mp4", "title": title} for video, title in titles.items()]
    root = Path(world.config.source.directory or "")
    (root / "catalogue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Landing]:
    """Who read a whole catalogue, and how often."""
    found: list[Landing] = []
    whole = Landing.catalogue

    def counted(landing: Landing) -> pa.Table:
        found.append(landing)
        return whole(landing)

    monkeypatch.setattr(Landing, "catalogue", counted)
    return found


def test_the_catalogue_is_read_once_a_change(world: World, readings: list[Landing]) -> None:
    gallery = Gallery(world)
    write_catalogue(world, v1="One", v2="")
    for _ in range(3):
        assert gallery.titles(["v1", "v2", "nobody"]) == {"v1": "One"}
    assert len(readings) == 1
    write_catalogue(world, v1="Another", v2="Two")
    assert gallery.titles(["v1", "v2"]) == {"v1": "Another", "v2": "Two"}
    assert len(readings) == 2


def test_viewers_are_those_of_the_version_that_is_served(world: World) -> None:
    gallery = Gallery(world)
    assert gallery.viewers("", 10) == []
    write_sequences(world.lake, {"u1": [(1, 100), (2, 300)], "u2": [(1, 100)]})
    write_sequences(world.lake, {"u1": [(1, 100)]}, through="2026-01-18")
    assert sorted(gallery.viewers("", 10)) == [("u1", 2), ("u2", 1)]


def test_titles_and_pictures_are_fetched_while_the_model_is_free(
    models: Models, states: InProcess, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalogue(world, v1="One", v2="Two")
    app = build(models, states, world, ServeConfig())
    busy: list[int] = []
    for name in ("titles", "pictures"):
        whole = getattr(Gallery, name)

        def noting(*arguments: Any, whole: Any = whole) -> Any:
            busy.append(app.state.one_at_a_time.borrowed_tokens)
            return whole(*arguments)

        monkeypatch.setattr(Gallery, name, noting)
    shown = client_of(app).get("/page/viewers/u1").json()
    assert {strip["video_id"]: strip["title"] for strip in shown["history"]} == {"v1": "One", "v2": "Two"}
    assert busy == [0, 0]
