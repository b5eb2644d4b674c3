"""The pool of actors fits itself to room and work: it grows into what the cluster frees and shrinks behind the last blocks."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mealrec.cluster import ray_cluster
from mealrec.config import RunConfig, override
from mealrec.stages.extract import extract
from tests.features.test_in_flight import watched

pytestmark = [pytest.mark.night, pytest.mark.ray, pytest.mark.media]

MOST, CPUS = 3, 4
VIDEOS = 2 * MOST  # an actor holds a block and the next one: fewer than MOST actors can't hold them all
# the real child, but not confined; videos wait until MOST of them are in hand, the one that begins last until all are let go
WAITS = (
    "import os, sys, time\n"
    "from pathlib import Path\n"
    "from mealrec.features import decoder_child as child\n"
    "decode = child.decode\n"
    "begun, let_go, most, videos = *map(Path, sys.argv[1:3]), *map(int, sys.argv[3:])\n"
    "def wait(request, *rest):\n"
    "    (begun / Path(request['path']).stem).touch()\n"
    "    number = len(os.listdir(begun))\n"
    "    while not (let_go.exists() or number < videos and len(os.listdir(begun)) >= most): time.sleep(0.02)\n"
    "    return decode(request, *rest)\n"
    "child.decode, child.confine = wait, lambda: None\n"
    "child.main()\n"
)


def until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_the_pool_grows_into_freed_room_and_shrinks_before_the_end(
    make_landing: Callable[[list[dict[str, Any]]], Path],
    run_config: RunConfig,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    root = make_landing([{"video_id": f"v{i}", "uri": f"videos/{i}.mp4", "title": None} for i in range(VIDEOS)])
    for i in range(VIDEOS):
        shutil.copy(clips / "silent.mp4", root / "videos" / f"{i}.mp4")
    settings = [f"features.actors={MOST}", "features.batch_videos=1", "features.buckets=1", f"ray.num_cpus={CPUS}"]
    config = override(run_config, [*settings, "features.decode_deadline_s=100"])
    begun, let_go = tmp_path / "begun", tmp_path / "let go"
    begun.mkdir()
    command = [sys.executable, "-c", WAITS, str(begun), str(let_go), str(MOST), str(VIDEOS)]
    monkeypatch.setenv("MEALREC_DECODER", shlex.join(command))
    seen: dict[str, int] = {}

    def follow(actors: list[int], room: Any) -> None:
        try:
            until(lambda: len(list(begun.iterdir())) > 0, "no video begins")
            seen["while others hold the room"] = actors[-1]
            ray.kill(room)
            until(lambda: len(list(begun.iterdir())) == VIDEOS, "the pool does not grow")
            seen["with room"] = max(actors)
            seen["a part of their CPUs is left"] = ray.available_resources()["CPU"] > CPUS - MOST
            until(lambda: actors[-1] == 1, "the pool does not shrink")
            seen["behind the last blocks"] = 1
        finally:
            let_go.touch()

    with ray_cluster(config.ray), watched() as actors:
        room = ray.remote(num_cpus=CPUS - 1)(Other).remote()
        ray.get(room.is_there.remote())
        follower = threading.Thread(target=follow, args=(actors, room))
        follower.start()
        summary = extract(config)
        follower.join()
        until(lambda: actors[-1] == 0, "an actor outlives the stage")
    assert seen == {
        "while others hold the room": 1,
        "with room": MOST,
        "a part of their CPUs is left": True,
        "behind the last blocks": 1,
    }
    assert max(actors) == MOST
    assert summary.rows_out == VIDEOS


class Other:
    """Somebody else's work on the cluster."""

    def is_there(self) -> bool:
        return True
