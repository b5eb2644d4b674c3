"""The whole pipeline, small: real Spark, Ray, decord, MLflow and Prefect, from raw logs to recommendations."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from mlflow.tracking import MlflowClient

from mealrec.claims import CLAIMS
from mealrec.config import override
from mealrec.lake import SUMMARY_KEY, Lake, Provenance
from mealrec.presets import preset
from mealrec.registry import promotion
from mealrec.registry.tracking import Tracker
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, QUARANTINE, RECOMMENDATIONS, SEQUENCES
from mealrec.sources.simulated.truth import Truth
from mealrec.stages.promote import _settle, promotions
from tests.canaries import found_in
from tests.integration.servers import kill_tree, until
from tests.small_world import SMALL, command, run

pytestmark = [pytest.mark.slow, pytest.mark.spark, pytest.mark.ray, pytest.mark.media, pytest.mark.timeout(900)]

STAGES = [
    "ingest",
    "sessionize",
    "sequences",
    "extract",
    "profile",
    "train",
    "evaluate",
    "drift",
    "promote",
    "recommend",
]


@pytest.fixture(scope="module")
def world(small_world: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    return small_world


def test_every_stage_ran_and_summary_json_holds_the_contract(world: tuple[Path, dict[str, Any]]) -> None:
    lake, summary = world
    assert json.loads((lake / "summary.json").read_text()) == summary
    assert list(summary["stages"]) == STAGES
    keys = {"seconds", "rows_in", "rows_out", "quarantined", "table", "version", "skipped"}
    assert all(keys <= set(stage) and not stage["skipped"] for stage in summary["stages"].values())
    assert summary["stages"]["sessionize"]["table"] == "interactions"
    assert summary["stages"]["sessionize"]["version"] == 0
    metrics = summary["metrics"]["test"]
    assert set(metrics) == {"mealrec", "popularity", "markov"}
    assert set(metrics["mealrec"]) == {f"{m}@{k}" for m in ("hr", "ndcg", "mrr") for k in (5, 10, 20)}
    model = summary["model"]
    assert model["version"] == "1" and model["gate"]["passed"] and "champion" in model["aliases"]
    assert Path(summary["report"]).is_file()


def test_quarantine_counts_equal_the_planted_faults(world: tuple[Path, dict[str, Any]]) -> None:
    lake, summary = world
    assert summary["truth"]["equal"], summary["truth"]
    assert sum(summary["truth"]["planted"]["sessionize"].values()) > 10
    rows = Lake(str(lake)).read(QUARANTINE)
    found = pc.value_counts(rows["stage"].combine_chunks()).to_pylist()
    assert {f["values"]: f["counts"] for f in found} == {
        stage: sum(counts.values()) for stage, counts in summary["truth"]["planted"].items()
    }


def test_nothing_is_lost_between_the_tables(world: tuple[Path, dict[str, Any]]) -> None:
    lake, summary = Lake(str(world[0])), world[1]
    for stage in ("sessionize", "extract"):
        counts = summary["stages"][stage]
        assert counts["rows_in"] == counts["rows_out"] + sum(counts["quarantined"].values())
    videos = set(lake.read(ITEMS)["video_id"].to_pylist())
    described = lake.read(FEATURES, columns=["video_id"])["video_id"].to_pylist()
    rejected = lake.read(QUARANTINE, filters=pc.field("stage") == "extract")["key"].to_pylist()
    assert sorted(described + rejected) == sorted(videos)
    viewers = lake.read(SEQUENCES)["user_id"].to_pylist()
    served = lake.read(RECOMMENDATIONS)
    assert sorted(served["user_id"].to_pylist()) == sorted(viewers)
    index = {row["video_id"]: row["item_index"] for row in lake.read(ITEMS).to_pylist()}
    seen = {row["user_id"]: set(row["item_index"]) for row in lake.read(SEQUENCES).to_pylist()}
    for row in served.to_pylist():
        assert not {index[v] for v in row["video_ids"]} & seen[row["user_id"]]
        assert row["scores"] == sorted(row["scores"], reverse=True)


def test_no_secret_of_the_environment_is_in_any_file_of_the_run(world: tuple[Path, dict[str, Any]]) -> None:
    assert found_in(world[0]) == []


def test_a_second_run_has_nothing_to_do_and_reports_the_same(world: tuple[Path, dict[str, Any]]) -> None:
    lake, first = world
    second = run(lake)
    assert all(stage["skipped"] for stage in second["stages"].values())
    for name, stage in second["stages"].items():
        for key in ("rows_in", "rows_out", "quarantined", "table", "version"):
            assert stage[key] == first["stages"][name][key], (name, key)
    assert (second["metrics"], second["model"], second["salience"]) == (
        first["metrics"],
        first["model"],
        first["salience"],
    )


def test_a_version_that_was_decided_is_not_judged_against_itself(world: tuple[Path, dict[str, Any]]) -> None:
    """By a second promote that had looked before the first one was done."""
    config = override(preset("demo"), [f"lake={world[0]}", *SMALL])
    lake = Lake(config.lake)
    tracker, before = Tracker(config.registry, lake.work), promotions(config)
    version = promotion.by_alias(tracker, promotion.CHAMPION)
    assert version is not None and [entry.version for entry in before] == [version.version]
    state = _settle(config, tracker, lake, version, "", lambda: None)
    assert (state.champion, state.previous) == (version.version, None)
    assert promotions(config) == before


# a line of the stage's progress that comes before it is done; tests/integration/test_night.py kills in the other stages
AT_WORK = {"ingest": "rendered", "train": "epoch 3"}


def _killed_in(stage: str, lake: Path) -> None:
    """Start the run and SIGKILL it with all that it started when the stage is at work, as a machine's restart would."""
    process = subprocess.Popen(
        command(lake), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if f"mealrec.{stage}:" in line and AT_WORK[stage] in line:
            break
    time.sleep(0.3)
    started = psutil.Process(process.pid).children(recursive=True)
    for one in (process, *started):
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            one.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()


@pytest.mark.night
def test_a_run_killed_in_several_stages_ends_with_the_same_figures(
    world: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    for stage in AT_WORK:
        _killed_in(stage, lake)
    summary = run(lake)
    assert summary["truth"]["equal"]
    assert summary["metrics"] == world[1]["metrics"]
    assert summary["salience"] == world[1]["salience"]
    for name in ("sessionize", "sequences", "extract", "recommend"):
        assert summary["stages"][name]["rows_out"] == world[1]["stages"][name]["rows_out"]


def _stage(stage: str, lake: Path, *settings: str) -> subprocess.Popen[str]:
    arguments = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    arguments = [sys.executable, "-m", "mealrec.cli", stage, "--preset", "demo", "--lake", str(lake), *arguments]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def _stopped_when_it_has_claimed(stage: str, lake: Path, *settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start a stage and SIGSTOP it with all its processes once it has work and has claimed it; never while it reads or writes
    MLflow's SQLite file, whose lock it would keep asleep (a store with a server has no such lock)."""
    before = _claims(lake, stage)
    process = _stage(stage, lake, *settings)
    try:
        until(lambda: _claims(lake, stage) > before or process.poll() is not None, f"{stage} claims", every_s=0.02)
        until(lambda: _asleep(process) and _unlocked(lake / "_work" / "mlflow.db"), f"{stage} stops", every_s=0.01)
        yield process
    finally:
        if process.poll() is None:
            kill_tree(psutil.Process(process.pid))
            process.wait()


def _asleep(process: subprocess.Popen[str]) -> bool:
    """Let it run for a moment and stop it again."""
    _signal(process, signal.SIGCONT)
    time.sleep(0.01)
    _signal(process, signal.SIGSTOP)
    # who is in a call of the system ends it first
    until(lambda: _threads_stand(process.pid), "its threads stand", every_s=0.001)
    return process.poll() is None


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """To it first, so that it starts no more, and to all that it has started and that have not ended by themselves."""
    whole = psutil.Process(process.pid)
    whole.send_signal(number)
    for one in whole.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(number)


def _threads_stand(pid: int) -> bool:
    try:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # one has ended in between
        return False
    return all(state in "TZX" for state in states)


def _unlocked(database: Path) -> bool:
    """Nobody writes it, and nobody is in the middle of reading: a reader lets others begin, but not commit."""
    with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        connection.rollback()
        return True


def _claims(lake: Path, stage: str) -> int:
    return DeltaTable(str(lake / CLAIMS)).transaction_version(stage) or 0


def _woken(process: subprocess.Popen[str]) -> str:
    _signal(process, signal.SIGCONT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 1
    return said


@pytest.fixture
def own_lake(world: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(world[0], tmp_path / "lake"))


@pytest.mark.night
def test_a_failing_stage_fails_the_run_and_says_why(own_lake: Path) -> None:
    before = Lake(str(own_lake)).version(INTERACTIONS)
    arguments = command(own_lake, "sessionize.max_quarantine_share=0.001")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "max_quarantine_share=0.001" in done.stderr and "nothing was committed" in done.stderr
    assert Lake(str(own_lake)).version(INTERACTIONS) == before and "mealrec.sequences:" not in done.stderr


@pytest.mark.night
def test_data_that_moved_stops_the_run_before_training(own_lake: Path) -> None:
    lake = Lake(str(own_lake))
    features = lake.read(FEATURES)
    at = features.schema.get_field_index("duration_ms")
    empty = features.set_column(at, "duration_ms", pa.nulls(len(features), pa.int64()))
    lake.write(FEATURES, empty, Provenance("test", "a night that lost a column"))
    before = (own_lake / "summary.json").read_text()
    done = subprocess.run(command(own_lake), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "the data moved too far from profile version 0, nothing is trained on it" in said
    assert "features null_duration_ms 0.00% 100.00%" in said and "mealrec.train:" not in said
    assert (own_lake / "summary.json").read_text() == before


def test_an_added_day_costs_its_own_files_and_videos(own_lake: Path) -> None:
    landing, lake = own_lake / "_work" / "landing", Lake(str(own_lake))
    files, videos = len(list((landing / "events").iterdir())), lake.read(ITEMS).num_rows
    size = ["--videos", "24", "--viewers", "80", "--days", "7", "--more-days", "1"]
    subprocess.run([sys.executable, "-m", "mealrec.cli", "simulate", str(landing), *size], check=True, timeout=100)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    for stage in ("ingest", "sessionize"):
        run_stage = [sys.executable, "-m", "mealrec.cli", "stage", stage, "--preset", "demo", "--lake", str(own_lake)]
        subprocess.run([*run_stage, *settings], check=True, timeout=200)
    done = json.loads(lake.history(INTERACTIONS, "sessionize")[0].metadata[SUMMARY_KEY])["details"]
    assert done["files"] == files + 1
    # its own file, and that of the day before, whose late events came with it
    assert (done["read"]["files"], done["read"]["days"]) == (2, 2)
    assert len(Truth.load(landing).salience) == videos + 1


@pytest.mark.night
def test_a_zombie_that_wakes_up_commits_no_row(own_lake: Path) -> None:
    lake, table = own_lake, Lake(str(own_lake))
    with _stopped_when_it_has_claimed("recommend", lake, "recommend.k=7") as process:
        second = _stage("recommend", lake, "recommend.k=7")
        assert second.communicate(timeout=200) and second.returncode == 0
        version, rows = table.version(RECOMMENDATIONS), table.read(RECOMMENDATIONS).num_rows
        said = _woken(process)
    assert "was taken over by a newer run" in said and "does not count" in said
    assert (table.version(RECOMMENDATIONS), table.read(RECOMMENDATIONS).num_rows) == (version, rows)


@pytest.mark.night
def test_a_zombie_that_wakes_up_registers_no_second_version(world: tuple[Path, dict[str, Any]]) -> None:
    lake, name = world[0], "registry.model_name=other"  # a model of its own: the shared one stays as it is
    with _stopped_when_it_has_claimed("promote", lake, name) as process:
        second = _stage("promote", lake, name)
        assert second.communicate(timeout=200) and second.returncode == 0
        said = _woken(process)
    assert "was taken over by a newer run" in said
    registry = MlflowClient(f"sqlite:///{lake}/_work/mlflow.db")
    assert [str(v.version) for v in registry.search_model_versions("name = 'other'")] == ["1"]
    assert str(registry.get_model_version_by_alias("other", "champion").version) == "1"
