"""SIGKILL of an actor in the middle: its videos are done by another. SIGKILL of the driver: nothing is visible, nothing keeps
running, and the next run goes on."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mealrec.cluster import ray_cluster
from mealrec.config import RunConfig, override
from mealrec.features.extract import TAKEN_ALONG
from mealrec.lake import Lake
from mealrec.schema import FEATURES, QUARANTINE
from mealrec.stages.extract import extract
from mealrec.stages.summary import StageError

pytestmark = [pytest.mark.ray, pytest.mark.media, pytest.mark.slow]

VIDEOS = 40
DRIVER = (
    "import sys; from mealrec.config import RunConfig; from mealrec.stages.extract import extract; "
    "extract(RunConfig.model_validate_json(sys.argv[1]))"
)


def parts(config: RunConfig) -> list[Path]:
    return sorted((Path(config.lake) / FEATURES).glob("bucket=*/part-*.parquet"))


@pytest.mark.night
def test_a_killed_run_leaves_nothing_visible_and_its_finished_videos_are_not_done_again(
    make_landing: Callable[[list[dict[str, Any]]], Path], run_config: RunConfig, clips: Path, tmp_path: Path
) -> None:
    root = make_landing([{"video_id": f"v{i:02}", "uri": f"videos/{i}.mp4", "title": None} for i in range(VIDEOS)])
    for i in range(VIDEOS):
        shutil.copy(clips / "silent.mp4", root / "videos" / f"{i}.mp4")
    config = override(run_config, ["features.batch_videos=1"])

    driver = subprocess.Popen([sys.executable, "-c", DRIVER, config.model_dump_json()], start_new_session=True)
    until = time.monotonic() + 120
    while len(parts(config)) < 3:
        assert driver.poll() is None and time.monotonic() < until, "the run ended or hung before it could be killed"
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not Lake(config.lake).exists(FEATURES)
    time.sleep(3)
    finished = len(parts(config))
    time.sleep(1)
    assert finished == len(parts(config)) < VIDEOS, "the workers ended with their driver"

    times = {p.name: p.stat().st_mtime_ns for p in parts(config)}
    with ray_cluster(config.ray):
        resumed = extract(config)
        straight = extract(override(config, [f"lake={tmp_path / 'straight'}"]))
    assert resumed.details["done_now"] == VIDEOS - finished
    assert {p.name: p.stat().st_mtime_ns for p in parts(config) if p.name in times} == times
    rows = Lake(config.lake).read(FEATURES)
    assert sorted(rows["video_id"].to_pylist()) == [f"v{i:02}" for i in range(VIDEOS)]
    again = Lake(str(tmp_path / "straight")).read(FEATURES)
    assert again.sort_by("video_id").equals(rows.sort_by("video_id"))
    assert (straight.rows_out, straight.quarantined) == (resumed.rows_out, resumed.quarantined)


def test_killed_actors_and_a_killed_decoder_cost_no_video(
    make_landing: Callable[[list[dict[str, Any]]], Path], run_config: RunConfig, clips: Path
) -> None:
    root = make_landing([{"video_id": f"v{i:02}", "uri": f"videos/{i}.mp4", "title": None} for i in range(VIDEOS)])
    for i in range(VIDEOS):
        shutil.copy(clips / "silent.mp4", root / "videos" / f"{i}.mp4")
    config = override(run_config, ["features.batch_videos=1", "features.actors=2"])
    killed: list[str] = []

    def kill() -> None:
        for number, kind in ((2, "ExtractActor"), (8, "decoder_child"), (14, "ExtractActor")):
            until = time.monotonic() + 120
            while len(parts(config)) < number and time.monotonic() < until:
                time.sleep(0.01)
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if kind in " ".join(process.cmdline()):
                        process.kill()
                        killed.append(kind)
                        break

    with ray_cluster(config.ray):
        killer = threading.Thread(target=kill)
        killer.start()
        summary = extract(config)
        killer.join()
    assert killed == ["ExtractActor", "decoder_child", "ExtractActor"]
    good = Lake(config.lake).read(FEATURES)["video_id"].to_pylist()
    bad = Lake(config.lake).read(QUARANTINE)
    assert sorted([*good, *bad["key"].to_pylist()]) == [f"v{i:02}" for i in range(VIDEOS)]
    assert bad["reason"].to_pylist() in ([], ["decoder_crashed"]), (
        "at most the video that the killed decoder had in hand"
    )
    assert (summary.rows_in, summary.rows_out) == (VIDEOS, len(good))


@pytest.mark.night
def test_a_block_that_kills_every_worker_ends_the_run_and_is_named(
    make_landing: Callable[[list[dict[str, Any]]], Path],
    run_config: RunConfig,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ["before", "kills its worker"]
    root = make_landing([{"video_id": name, "uri": f"videos/{name}.mp4", "title": None} for name in names])
    for name in names:
        shutil.copy(clips / "silent.mp4", root / "videos" / f"{name}.mp4")
    kills = (
        "import os, signal\n"
        "from mealrec.features import decoder_child as child\n"
        "decode = child.decode\n"
        "def kill(request, *rest):\n"
        "    if 'kills its worker' in request['path']: os.kill(os.getppid(), signal.SIGKILL)\n"
        "    return decode(request, *rest)\n"
        "child.decode, child.confine = kill, lambda: None\n"
        "child.main()\n"
    )
    monkeypatch.setenv("MEALREC_DECODER", shlex.join([sys.executable, "-c", kills]))
    config = override(run_config, ["features.batch_videos=1", "features.buckets=1"])
    told = f"{TAKEN_ALONG + 1} workers were killed over the videos kills its worker: .*nothing was committed"
    with ray_cluster(config.ray), pytest.raises(StageError, match=told):
        extract(config)
    assert len(parts(config)) == 1, "the other block's part is there"
