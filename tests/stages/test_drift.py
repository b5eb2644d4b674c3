"""The stage over real tables and a real registered champion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mealrec.cli import main
from mealrec.config import RegistryConfig, RunConfig, digest
from mealrec.features.extract import write_part
from mealrec.lake import Lake, Provenance
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry.tracking import Tracker
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, RECOMMENDATIONS, SCHEMAS, SEQUENCES
from mealrec.stages.drift import drift, read
from mealrec.training import bundle
from tests.conftest import write_packed
from tests.stages import champion
from tests.test_lake import forget

ITEM_COUNT, VIEWERS, EVENTS_A_DAY = 30, 40, 400
DAY_MS = 86_400_000
DAYS = ("2026-01-05", "2026-01-06")
BEGAN_MS = 1_767_571_200_000


@dataclass
class World:
    """A lake with a champion, and ways to make its next night."""

    config: RunConfig
    lake: Lake

    def events(self, day: int, *, watched: float = 0.5) -> None:
        """One more day; `watched`: mean share of a video that is watched."""
        rng = np.random.default_rng(day)
        ratio = np.clip(rng.normal(watched, 0.2, EVENTS_A_DAY), 0.01, 2)
        rows = [
            {
                "event_id": f"{day}-{n}",
                "user_id": f"u{n % VIEWERS}",
                "video_id": f"v{1 + n % ITEM_COUNT}",
                "event_type": "view",
                "timestamp_ms": BEGAN_MS + day * DAY_MS + int(n * DAY_MS / EVENTS_A_DAY),
                "watch_ms": int(ratio[n] * 10_000),
                "watch_ratio": float(ratio[n]),
                "is_positive": bool(ratio[n] > 0.3),
            }
            for n in range(EVENTS_A_DAY)
        ]
        part = f"event_date={DAYS[day]}/part-{day}.parquet"
        write_part(self.lake, INTERACTIONS, part, rows)
        self.lake.commit_files(INTERACTIONS, [part], made("sessionize"), mode="append")

    def sequences(self, histories: list[list[int]]) -> None:
        rows = [{"user_id": f"u{n}", "item_index": row, "length": len(row)} for n, row in enumerate(histories)]
        part = f"bucket=0/part-{digest(histories)}.parquet"
        write_part(self.lake, SEQUENCES, part, rows)
        inputs = {INTERACTIONS: self.lake.at(INTERACTIONS).version()}
        self.lake.commit_files(SEQUENCES, [part], made("sequences", inputs=inputs), mode="overwrite")

    def features(self, name: str, *, scale: float = 1.0) -> None:
        """Thirty more videos without sound; `scale` of their frame vectors."""
        rng = np.random.default_rng(1)
        rows = []
        for n in range(ITEM_COUNT):
            frames, text = (rng.normal(size=shape).astype(np.float16) for shape in ((2, 8), (1, 4)))
            visual = {"visual": (frames * np.float16(scale)).tobytes(), "visual_frames": 2, "visual_dim": 8}
            rows.append({"video_id": f"{name}{n}", **visual, "text": text.tobytes(), "text_dim": 4})
        part = f"bucket=0/part-{name}.parquet"
        write_part(self.lake, FEATURES, part, rows)
        self.lake.commit_files(FEATURES, [part], made("extract"), mode="append")

    def found(self) -> dict[str, dict[str, Any]]:
        result = read(self.lake)
        assert result is not None
        return {f"{q['group']}.{q['name']}": q for q in result["quantities"]}


def made(stage: str, seconds: float = 1.0, inputs: dict[str, int] | None = None) -> Provenance:
    return Provenance(stage, "d", "run", inputs or {}, {"seconds": seconds})


def cyclic() -> list[list[int]]:
    return [[(n + step) % ITEM_COUNT + 1 for step in range(8)] for n in range(VIEWERS)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    data = write_packed(folder / "packed", items=ITEM_COUNT)
    torch.manual_seed(0)
    return bundle.write(MealRec(ModelSettings(**data.content.dims, width=16, max_history=8)), data, folder / "bundle")


@pytest.fixture
def world(tmp_path: Path) -> World:
    config = RunConfig(lake=str(tmp_path / "lake"), registry=RegistryConfig())
    made_world = World(config, Lake(config.lake))
    made_world.events(0)
    items = [{"video_id": f"v{n}", "item_index": n} for n in range(1, ITEM_COUNT + 1)]
    made_world.lake.write(ITEMS, pa.Table.from_pylist(items, schema=SCHEMAS[ITEMS]), made("sequences"))
    made_world.sequences(cyclic())
    made_world.features("old")
    return made_world


def crown(world: World, model_folder: Path) -> None:
    """Register the model as trained on the tables as they are now, and make it the champion."""
    tags = {f"mealrec.version.{t}": str(world.lake.version(t)) for t in (SEQUENCES, ITEMS, FEATURES)}
    champion.crown(Tracker(world.config.registry, world.lake.work), model_folder, tags)


def test_without_a_champion_and_with_one_of_these_tables_there_is_nothing_to_compare(
    world: World, model_folder: Path
) -> None:
    assert drift(world.config).details["champion"] is None
    crown(world, model_folder)
    summary = drift(world.config)
    assert (summary.details["champion"], summary.details["state"], summary.skipped) == ("1", "ok", True)
    assert world.found() == {}


def test_what_moved_is_named_and_what_did_not_is_left_in_peace(world: World, model_folder: Path) -> None:
    crown(world, model_folder)
    world.events(1, watched=0.1)
    world.features("new", scale=4.0)
    histories = cyclic()
    world.sequences([row + [ITEM_COUNT + 5] * 4 for row in histories[:30]] + [[ITEM_COUNT + 5]] * 10)
    summary = drift(world.config, run_id="night")
    found = world.found()
    assert summary.details["state"] == "alarm" and not summary.skipped
    assert {name for name, q in found.items() if q["state"] == "alarm"} == {
        "events.watch_ratio",
        "events.watch_ms",
        "events.positive",
        "features.visual_norm",
        "fallbacks.empty_history",
        "fallbacks.unknown_videos",
    }
    assert found["fallbacks.empty_history"]["moved"] == "0.00% -> 25.00%"
    assert found["events.watch_ms"]["current_rows"] == EVENTS_A_DAY  # the new day alone
    for still in ("events.event_type", "events.hour_of_day", "features.text_norm", "features.without_audio"):
        assert found[still]["value"] == 0, still
    assert {"scores.best", "scores.gap_to_second", "scores.unusual_history"} <= set(found)
    again = drift(world.config)
    assert again.skipped and again.details == summary.details


def test_a_champion_whose_tables_are_gone_is_not_compared_with_and_nothing_stops(
    world: World, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crown(world, model_folder)
    world.sequences(cyclic()[:30])
    forget(world.lake, SEQUENCES)
    summary = drift(world.config)
    assert (summary.details["champion"], summary.details["state"]) == (None, "ok") and world.found() == {}
    assert "sequences version 0, which champion 1 was trained on, is no longer there" in caplog.text


def test_a_stage_that_became_slow_is_an_alarm(world: World) -> None:
    for seconds in (10.0, 11.0, 9.0, 100.0):
        world.lake.commit_files(RECOMMENDATIONS, [], made("recommend", seconds), mode="append")
    drift(world.config)
    assert world.found()["durations.recommend"]["moved"] == "10.0 s -> 100.0 s"
    assert world.found()["durations.recommend"]["state"] == "alarm"


def test_the_command_prints_a_table_and_fails_only_when_asked(
    world: World, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crown(world, model_folder)
    world.events(1, watched=0.1)

    def call(*more: str) -> int | str | None:
        arguments = ["mealrec", "drift", "--preset", "demo", "--lake", world.config.lake, *more]
        monkeypatch.setattr("sys.argv", arguments)
        try:
            main()
        except SystemExit as done:
            return done.code or 0
        return 0

    assert call() == 0
    out = capsys.readouterr().out
    assert "events watch_ms" in out and "state: alarm" in out
    assert call("--fail") == 1
    capsys.readouterr()
    assert call("--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "alarm"
