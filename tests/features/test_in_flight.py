"""However large catalogue and cluster: no more actors than asked for, and no more videos in hand than their blocks hold."""

from __future__ import annotations

import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from mealrec.cluster import ray_cluster
from mealrec.config import RunConfig, override
from mealrec.schema import FEATURES
from mealrec.stages.extract import extract

pytestmark = [pytest.mark.ray, pytest.mark.media, pytest.mark.slow]

VIDEOS, ACTORS, BLOCK = 16, 2, 2

# the real child, but not confined and before each video it makes an empty file, named by its number and by how many parts
# were finished then. The lock makes the two one moment.
COUNTS = (
    "import fcntl, os, sys\n"
    "from pathlib import Path\n"
    "from mealrec.features import decoder_child as child\n"
    "decode, begun, table = child.decode, Path(sys.argv[1]), Path(sys.argv[2])\n"
    "def count(request, *rest):\n"
    "    lock = os.open(begun, os.O_RDONLY)\n"
    "    fcntl.flock(lock, fcntl.LOCK_EX)\n"
    "    parts = len(list(table.glob('bucket=*/part-*.parquet')))\n"
    "    (begun / f'{len(os.listdir(begun)) + 1} {parts}').touch()\n"
    "    os.close(lock)\n"
    "    return decode(request, *rest)\n"
    "child.decode, child.confine = count, lambda: None\n"
    "child.main()\n"
)


@contextmanager
def watched() -> Iterator[list[int]]:
    """How many actors of the stage lived, time after time."""
    counts, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            alive = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    alive += "ExtractActor" in " ".join(process.cmdline())
            counts.append(alive)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield counts
    finally:
        over.set()
        watcher.join()


@pytest.mark.night
def test_actors_and_videos_in_hand_are_bounded_where_the_cluster_has_room_for_more(
    make_landing: Callable[[list[dict[str, Any]]], Path],
    run_config: RunConfig,
    clips: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = make_landing([{"video_id": f"v{i:02}", "uri": f"videos/{i}.mp4", "title": None} for i in range(VIDEOS)])
    for i in range(VIDEOS):
        shutil.copy(clips / "silent.mp4", root / "videos" / f"{i}.mp4")
    config = override(
        run_config,
        [f"features.actors={ACTORS}", f"features.batch_videos={BLOCK}", "features.buckets=1", "ray.num_cpus=4"],
    )
    begun, table = tmp_path / "begun", Path(config.lake) / FEATURES
    begun.mkdir()
    monkeypatch.setenv("MEALREC_DECODER", shlex.join([sys.executable, "-c", COUNTS, str(begun), str(table)]))
    with watched() as actors, ray_cluster(config.ray):
        summary = extract(config)

    assert summary.rows_out == VIDEOS
    moments = [tuple(map(int, file.name.split())) for file in begun.iterdir()]
    assert sorted(number for number, _ in moments) == list(range(1, VIDEOS + 1))
    assert max(number - BLOCK * parts for number, parts in moments) <= ACTORS * BLOCK
    assert max(actors) == ACTORS
