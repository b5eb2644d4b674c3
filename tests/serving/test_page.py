"""The page in a real headless Chromium, over a real lake of rendered videos and two real versions of a model.

Screenshots are kept in MEALREC_SCREENSHOTS, by default var/screenshots."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import shutil
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from safetensors.torch import load_file, save_file

from mealrec.config import RunConfig, override
from mealrec.features.extract import write_part
from mealrec.lake import Lake, Provenance
from mealrec.presets import demo
from mealrec.registry import flavour, promotion
from mealrec.registry.source import RegistrySource
from mealrec.registry.tracking import Tracker
from mealrec.schema import INTERACTIONS, ITEMS, SEQUENCES
from mealrec.serving.app import build
from mealrec.serving.models import Models
from mealrec.serving.viewers import ViewerStates
from mealrec.serving.world import World
from mealrec.stages.drift import drift
from tests.serving.test_app import InProcess
from tests.small_world import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.ray, pytest.mark.media, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
DAY_MS = 86_400_000
HOSTILE = "<img src=x onerror=document.title='owned'>"
WIDE, NARROW = {"width": 1360, "height": 1000}, {"width": 420, "height": 900}


@pytest.fixture(scope="module")
def config(small_world: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A copy of the small world with a second version as challenger and a title that tries to become markup."""
    lake = tmp_path_factory.mktemp("page") / "lake"
    shutil.copytree(small_world[0], lake)
    changes = [*SMALL, f'lake="{lake}"', f'serve.benchmarks="{ROOT}/benchmarks/results/quality.json"']
    config = override(demo(), changes)
    _retitle(config)
    tracker = Tracker(config.registry, lake / "_work")
    champion = promotion.by_alias(tracker, "champion")
    assert champion is not None
    bundle = flavour.bundle_of(tracker, "models:/mealrec/1", tmp_path_factory.mktemp("bundle"))
    weights = load_file(bundle / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {
        k: v + 0.3 * torch.randn(v.shape, generator=generator) * v.std() if v.numel() > 1 else v
        for k, v in weights.items()
    }
    save_file(moved, bundle / "model.safetensors")
    promotion.register(tracker, flavour.log_model(tracker, champion.run_id, bundle), champion.run_id, {})
    _one_more_day(Lake(config.lake, config.work))
    assert drift(config).details["state"] == "alarm"
    return config


def _retitle(config: RunConfig) -> None:
    """The newest video that the shown viewer watched."""
    lake = Lake(config.lake, config.work)
    index = lake.read(SEQUENCES, filters=pc.field("user_id") == a_viewer(config)[0])["item_index"][0].as_py()[-1]
    (video,) = lake.read(ITEMS, filters=pc.field("item_index") == index)["video_id"].to_pylist()
    catalogue = lake.work / "landing" / "catalogue.jsonl"
    rows = [json.loads(line) for line in catalogue.read_text().splitlines()]
    hostile = [row | ({"title": HOSTILE} if row["video_id"] == video else {}) for row in rows]
    catalogue.write_text("\n".join(json.dumps(row) for row in hostile))


def _one_more_day(lake: Lake) -> None:
    """The last day again as the day after it, hardly watched: the drift report has something to show."""
    known = lake.read(INTERACTIONS).to_pylist()
    last = max(row["timestamp_ms"] for row in known) // DAY_MS
    rows = [
        row
        | {"event_id": f"again-{row['event_id']}", "timestamp_ms": row["timestamp_ms"] + DAY_MS}
        | {
            "watch_ms": row["watch_ms"] and row["watch_ms"] // 9,
            "watch_ratio": row["watch_ratio"] and row["watch_ratio"] / 9,
        }
        for row in known
        if row["timestamp_ms"] // DAY_MS == last
    ]
    part = f"event_date={datetime.fromtimestamp((last + 1) * DAY_MS / 1000, UTC):%Y-%m-%d}/part-again.parquet"
    write_part(lake, INTERACTIONS, part, rows)
    lake.commit_files(INTERACTIONS, [part], Provenance("test", "d"), mode="append")


@pytest.fixture(scope="module")
def address(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    lake = Lake(config.lake, config.work)
    models = Models(RegistrySource(Tracker(config.registry, lake.work)), tmp_path_factory.mktemp("models"))
    models.refresh()
    states = ViewerStates(lake, tmp_path_factory.mktemp("journal"), config.sessionize, lambda: "2026-01-20")
    states.refresh()
    app = build(models, InProcess(states), World(config), config.serve)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)
    states.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The machine's Chromium. Where CI runs, a page that nobody looked at is a failure and not a skipped test."""
    path = runpy.run_path(str(ROOT / "infra" / "browser" / "provide.py"))["installed"]()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "no Chromium on this machine: `make browser` installs one"
        )
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page that may speak to the endpoint alone, and whose complaints fail the test."""
    complaints: list[str] = []

    def at_home(route: Route) -> None:
        if route.request.url.startswith((address, "data:")):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context = browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    made = context.new_page()
    made.route("**/*", at_home)
    made.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.goto(address)
    yield made
    context.close()
    assert complaints == []


@pytest.fixture
def keep() -> Path:
    folder = Path(os.environ.get("MEALREC_SCREENSHOTS") or ROOT / "var" / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pick(page: Page, user: str) -> None:
    page.get_by_label("Viewer", exact=True).fill(user)
    page.locator("#viewer-list button", has_text=user).click()
    page.wait_for_selector(".strip img")


def a_viewer(config: RunConfig) -> tuple[str, int]:
    rows = Lake(config.lake).read(SEQUENCES, columns=["user_id", "length"]).to_pylist()
    longest = max(rows, key=lambda row: (row["length"], row["user_id"]))
    return longest["user_id"], longest["length"]


def test_a_viewers_history_and_recommendations_are_film_strips(page: Page, config: RunConfig, keep: Path) -> None:
    user, length = a_viewer(config)
    pick(page, user)
    expect(page.locator("#viewer h2").first).to_contain_text(f"Viewer {user} {length} videos watched")
    pictures = page.eval_on_selector_all(".strip img", "all => all.map(one => one.naturalWidth)")
    assert len(pictures) > 20 and min(pictures) > 30, "every frame is a decoded picture"
    sums = page.eval_on_selector_all(
        ".strip:has(.frame)",
        "all => all.map(s => [...s.querySelectorAll('.frame')].reduce((a, f) => a + Number(f.dataset.weight), 0))",
    )
    assert all(abs(total - 1) < 1e-3 for total in sums), "the weights of a video's frames sum to one"
    watched = page.eval_on_selector_all(".history .strip", "all => all.map(one => one.dataset.video)")
    best = page.eval_on_selector_all(".recommended .strip", "all => all.map(one => one.dataset.video)")
    assert watched and len(best) >= 5 and not set(watched) & set(best)
    for reason in ("Near in the history: ", "Most salient at "):  # not every video has frames
        expect(page.locator(".recommended .why").filter(has_text=reason).first).to_be_visible()
    page.screenshot(path=keep / "viewer.png")
    page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page.screenshot(path=keep / "viewer-narrow.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], "nothing sticks out"


def test_a_title_stays_text_whatever_is_in_it(page: Page, config: RunConfig) -> None:
    pick(page, a_viewer(config)[0])
    expect(page.locator(".history .strip h3").first).to_have_text(HOSTILE)
    assert page.title() == "MealRec"


def test_champion_and_challenger_stand_side_by_side(page: Page, config: RunConfig, keep: Path) -> None:
    expect(page.locator("#versions")).to_contain_text("champion version 1 · challenger version 2")
    pick(page, a_viewer(config)[0])
    page.get_by_label("side by side").check()
    page.wait_for_selector(".recommended >> nth=1")
    lists = [
        page.eval_on_selector_all(
            f".recommended[data-version='{v}'] .strip", "all => all.map(one => one.dataset.video)"
        )
        for v in (1, 2)
    ]
    assert lists[0] != lists[1]
    marked = page.eval_on_selector_all(".strip.differs", "all => all.map(one => one.dataset.video)")
    assert sorted(marked) == sorted(set(lists[0]) ^ set(lists[1]))
    page.screenshot(path=keep / "side-by-side.png")
    page.get_by_label("challenger").check()
    expect(page.locator(".recommended h2")).to_contain_text("Recommended by challenger version 2")


def test_the_run_report_shows_every_plot(page: Page, keep: Path) -> None:
    page.get_by_role("link", name="Run report").click()
    page.wait_for_selector(".card svg")
    cards = page.eval_on_selector_all(".card", "all => Object.fromEntries(all.map(c => [c.dataset.plot, c.innerText]))")
    wanted = {
        "Metrics",
        "NDCG@10",
        "Slices",
        "Curve: ndcg@10",
        "Curve: loss_tcd",
        "Tables",
        "Watch ratio",
        "Hour of day",
    }
    assert wanted | {"Event types", "Drift", "Promotions", "Ablations and baselines"} <= set(cards)
    assert "popularity" in cards["Metrics"] and "target never seen" in cards["Slices"] + "target never seen"
    assert "unparseable" in cards["Tables"] and "promoted" in cards["Promotions"]
    assert "sasrec" in cards["Ablations and baselines"]
    assert "Overall: alarm" in cards["Drift"] and "watch_ratio" in cards["Drift"]
    drawn = page.eval_on_selector_all("svg", "all => all.map(s => [s.getBoundingClientRect().height, s.ariaLabel])")
    assert len(drawn) >= 6 and all(height > 80 and label for height, label in drawn)
    for ticks in page.eval_on_selector_all(
        "svg", "all => all.map(s => [...s.querySelectorAll('.tick')].map(t => t.textContent))"
    ):
        assert len(ticks) >= 2 and len(set(ticks)) == len(ticks), "no two ticks of an axis say the same"
    page.screenshot(path=keep / "run.png", full_page=True)


def test_what_goes_wrong_is_said_on_the_page(browser: Browser, address: str) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.route("**/page/viewers?*", lambda route: route.fulfill(status=503, json={"error": "overloaded"}))
        page.goto(address)
        expect(page.get_by_role("alert")).to_have_text("overloaded")


def test_the_pages_requests_have_limits_and_its_files_a_policy(address: str) -> None:
    import httpx

    with httpx.Client(base_url=address, timeout=60) as client:
        first = client.get("/")
        assert "default-src 'none'" in first.headers["content-security-policy"]
        assert client.get("/page/viewers", params={"limit": 51}).status_code == 422
        assert client.get("/page/viewers", params={"q": "x" * 257}).status_code == 422
        assert client.get("/page/viewers/u1", params={"alias": "nobody"}).status_code == 422
        assert client.get("/page/viewers/nobody").json()["history"] == []
        assert client.get("/page/..%2f..%2fetc/passwd").status_code == 404
