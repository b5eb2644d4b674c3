"""Extraction beside bare loops on real clips, and over a catalogue of many: speed, memory, and what a run again costs.

    MEALREC_DATA=./data python benchmarks/extract.py clips      # decoders alone, encoders alone, bare loop, our stage
    MEALREC_DATA=./data python benchmarks/extract.py cpu        # bare loop and stage by processor time, on a busy machine
    MEALREC_DATA=./data python benchmarks/extract.py catalogue  # 10,000 small clips: memory as it goes, the same run again

Each adds its part to results/extract.json. Every rival runs in processes of its own with one thread each, as our actors do.
The stage's rate counts from when every actor has written its first part, so neither Ray's start nor the actors' imports count.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import extract_loops as loops
import psutil
import pyarrow.parquet as pq
from extract_turns import Rival, share, stage_process

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.cluster import ray_cluster
from mealrec.config import FeaturesConfig, RayConfig, RunConfig, SourceConfig
from mealrec.features.rows import bucket_of
from mealrec.stages.extract import extract

RESULT = Path(__file__).parent / "results" / "extract.json"
WORKERS = 2
PAIRS, TURN_S = 40, 8.0  # clips: turns of the stage and of the bare loop
ROUNDS = {"clips": 200, "cpu": 4}  # in turns neither may come to its end, however quick the machine
PLAIN, KEPT = loops.BARE
SMALL_BYTES = 110_000  # catalogue: clips up to this size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("clips", "cpu", "catalogue"))
    parser.add_argument("--rounds", type=int, help=f"how often each clip comes; default: {ROUNDS}")
    parser.add_argument("--videos", type=int, default=10_000, help="catalogue: number of videos")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rounds = arguments.rounds or ROUNDS.get(arguments.part, 0)
    clips = sorted((Path(os.environ["MEALREC_DATA"]) / "clips" / "real").iterdir())
    with tempfile.TemporaryDirectory(prefix="mealrec-extract-") as folder:
        if arguments.part == "clips":
            part = side_by_side(clips, Path(folder), rounds)
        elif arguments.part == "cpu":
            part = processor_time(clips, Path(folder), rounds)
        else:
            part = catalogue([c for c in clips if c.stat().st_size <= SMALL_BYTES], Path(folder), arguments.videos)
    part |= {"command": f"python benchmarks/extract.py {' '.join(sys.argv[1:])}", "commit": commit_of()}
    part |= {"hardware": hardware(), "when": datetime.now(UTC).isoformat(timespec="seconds"), "load": os.getloadavg()}
    whole = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    arguments.out.write_text(json.dumps(whole | {arguments.part: part}, indent=1, sort_keys=True) + "\n")
    print(json.dumps(part, indent=1))


# -- clips -----------------------------------------------------------------------------------------------------------
def side_by_side(clips: list[Path], folder: Path, rounds: int) -> dict[str, Any]:
    """Decoders and encoders alone, in one process each; the bare loop without the stage's setting of the allocator, in as many
    as the stage has actors; then the bare loop with it and the stage, in turns."""
    jobs = [loops.job(clip) for clip in clips]
    rows: dict[str, Any] = {}
    for name in (*loops.ALONE, PLAIN):
        rows[name] = _rate(jobs, name, workers=1 if name in loops.ALONE else WORKERS)
        print(name, rows[name], file=sys.stderr)
    turns = in_turns(jobs, clips, folder, rounds)
    return {"rows": rows, "in_turns": turns, "workers": WORKERS, "clips": len(clips)}


def in_turns(jobs: list[dict[str, Any]], clips: list[Path], folder: Path, rounds: int) -> dict[str, Any]:
    config = _landing(clips, folder, rounds * len(clips), FeaturesConfig(text="none", actors=WORKERS))
    with Bare(_in_the_stages_order(jobs, config, rounds)) as bare:
        bare.rival.warm_up(WORKERS)
        with stage_process(config, folder) as stage:
            return share(stage, bare.rival, PAIRS, TURN_S)


def _in_the_stages_order(jobs: list[dict[str, Any]], config: RunConfig, rounds: int) -> list[dict[str, Any]]:
    """The stage goes through its buckets; the clips differ a hundredfold in length, so the loop has to do the same."""
    buckets = config.features.buckets
    numbers = sorted(range(rounds * len(jobs)), key=lambda i: (bucket_of(_video(i), buckets), i))
    return [jobs[i % len(jobs)] for i in numbers]


class Bare:
    """The bare loop, its jobs handed out one at a time to processes."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self.todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for job in jobs:
            self.todo.put(job)
        self.frames: list[int] = []

    def __enter__(self) -> Bare:
        started = _started(KEPT, WORKERS)
        self.rival = Rival(started, lambda: len(self.frames))
        self.threads = [threading.Thread(target=_feed, args=(process, self.todo, self.frames)) for process in started]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(queue.Empty):
            while True:
                self.todo.get_nowait()
        self.rival.kill()
        for thread in self.threads:
            thread.join()


def _started(name: str, workers: int) -> list[subprocess.Popen[str]]:
    """So many processes of a loop, ready. Raises RuntimeError with the last line of what it says where it can't run."""
    command = [sys.executable, str(Path(__file__).parent / "extract_loops.py"), name]
    started = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=loops.environment(name),
        )
        for _ in range(workers)
    ]
    if any(p.stdout is None or p.stdout.readline().strip() != "ready" for p in started):
        said = [p.communicate()[1].strip().splitlines() for p in started]
        raise RuntimeError(said[0][-1] if said[0] else "it ended before it was ready")
    return started


def _rate(jobs: list[dict[str, Any]], name: str, workers: int) -> dict[str, Any]:
    """Jobs handed out one at a time to so many processes; the clock starts when all are ready."""
    try:
        started = _started(name, workers)
    except RuntimeError as error:
        return {"not run": str(error)}
    todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    began, busy = time.monotonic(), _processor_s(started)
    frames: list[int] = []
    threads = [threading.Thread(target=_feed, args=(process, todo, frames)) for process in started]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, busy = time.monotonic() - began, _processor_s(started) - busy
    for process in started:
        process.communicate()
    return _row(len(jobs), sum(frames), seconds) | {"processor_s_a_clip": round(busy / len(jobs), 4)}


def _processor_s(processes: list[subprocess.Popen[str]]) -> float:
    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)


def _feed(process: subprocess.Popen[str], todo: queue.SimpleQueue[dict[str, Any]], frames: list[int]) -> None:
    """Until nothing is to do, or the process is gone."""
    assert process.stdin is not None and process.stdout is not None
    while True:
        try:
            job = todo.get_nowait()
        except queue.Empty:
            return
        with suppress(BrokenPipeError):
            print(json.dumps(job), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        if not answer:
            return
        frames.append(int(answer))


def _row(clips: int, frames: int, seconds: float) -> dict[str, Any]:
    row = {"clips": clips, "frames": frames, "seconds": round(seconds, 2)}
    return row | {"clips_per_s": round(clips / seconds, 2), "frames_per_s": round(frames / seconds, 1)}


def _landing(clips: list[Path], folder: Path, videos: int, features: FeaturesConfig) -> RunConfig:
    """A catalogue of so many videos: the clips copied once, then linked under one name each."""
    landing = folder / "landing"
    (landing / "videos").mkdir(parents=True)
    copies = [Path(shutil.copy(clip, landing / f"{i}{clip.suffix}")) for i, clip in enumerate(clips)]
    rows = []
    for i in range(videos):
        clip = copies[i % len(copies)]
        (landing / "videos" / f"{i}{clip.suffix}").hardlink_to(clip)
        rows.append(json.dumps({"video_id": _video(i), "uri": f"videos/{i}{clip.suffix}", "title": None}) + "\n")
    (landing / "catalogue.jsonl").write_text("".join(rows))
    source = SourceConfig(kind="landing", directory=str(landing))
    return RunConfig(lake=str(folder / "lake"), source=source, features=features, ray=RayConfig(num_cpus=WORKERS))


def _video(number: int) -> str:
    return f"v{number:06}"


# -- cpu -------------------------------------------------------------------------------------------------------------
def processor_time(clips: list[Path], folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of processor a clip takes in the bare loop and in the stage's actors and their decoders: other work on the
    machine stretches the wall, not these. Counted as the rates are: without starts and imports."""
    bare = _rate([loops.job(clip) for clip in clips], KEPT, WORKERS)["processor_s_a_clip"]
    config = _landing(clips, folder, rounds * len(clips), FeaturesConfig(text="none", actors=WORKERS))
    with ray_cluster(RayConfig(num_cpus=WORKERS)), Processor(Path(config.lake)) as processor:
        extract(config)
    stage = processor.seconds_a_clip()
    return {"bare": bare, "stage": stage, "bare_share_of_stage": round(bare / stage, 3), "clips": rounds * len(clips)}


class Processor:
    """Processor time of the actors and decoders below this process, and the clips done, every half second."""

    def __init__(self, lake: Path) -> None:
        self.lake = lake

    def __enter__(self) -> Processor:
        self.samples: list[tuple[int, float]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        seen: dict[int, float] = {}
        while not self.over.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    if _counts(" ".join(process.cmdline())):
                        times = process.cpu_times()
                        seen[process.pid] = times.user + times.system
                except psutil.Error:
                    continue
            parts = (self.lake / "features").glob("bucket=*/part-*.parquet")
            self.samples.append((sum(pq.read_metadata(p).num_rows for p in parts), sum(seen.values())))

    def seconds_a_clip(self) -> float:
        """From the first sample with a block of every actor to the first with all."""
        last = max(clips for clips, _ in self.samples)
        first = next(s for s in self.samples if s[0] >= WORKERS * FeaturesConfig().batch_videos)
        end = next(s for s in self.samples if s[0] == last)
        return round((end[1] - first[1]) / (end[0] - first[0]), 4)


# -- catalogue -------------------------------------------------------------------------------------------------------
def catalogue(clips: list[Path], folder: Path, videos: int) -> dict[str, Any]:
    """One frame of 64 pixels a video, so that thousands pass in minutes: what a video costs beside its pixels."""
    features = FeaturesConfig(
        frames=1, frame_size=64, audio="none", text="none", thumbnail_height=0, actors=WORKERS, batch_videos=16
    )
    config = _landing(clips, folder, videos, features)
    with Memory() as memory:
        first = _timed(config)
    again = _timed(config)
    _add_one(Path(str(config.source.directory)))
    one_more = _timed(config)
    return {
        "videos": videos,
        "first_run_s": first,
        "again_s": again,
        "again_share": round(again / first, 4),
        "one_more_s": one_more,
        "memory_mib": memory.by_tenth(),
    }


def _add_one(landing: Path) -> None:
    """A video more: the run has to start Ray for it, and must leave the others alone."""
    clip = next((landing / "videos").iterdir())
    shutil.copy(clip, landing / "videos" / f"more{clip.suffix}")
    with (landing / "catalogue.jsonl").open("a") as file:
        file.write(json.dumps({"video_id": "w", "uri": f"videos/more{clip.suffix}", "title": None}) + "\n")


def _timed(config: RunConfig) -> float:
    began = time.monotonic()
    summary = extract(config)
    print(summary.details, file=sys.stderr)
    return round(time.monotonic() - began, 2)


class Memory:
    """Resident memory of this process and all below it, every second, by kind of process."""

    def __enter__(self) -> Memory:
        self.samples: list[dict[str, float]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self.over.wait(1.0):
            sample = {"driver": me.memory_info().rss / 2**20, "actors": 0.0, "decoders": 0.0}
            for process in me.children(recursive=True):
                try:
                    words, rss = " ".join(process.cmdline()), process.memory_info().rss / 2**20
                except psutil.Error:
                    continue
                sample["decoders" if "decoder_child" in words else "actors"] += rss * _counts(words)
            self.samples.append(sample)

    def by_tenth(self) -> dict[str, list[int]]:
        """The highest value of each tenth of the run, MiB."""
        n = len(self.samples)
        tenths: Iterable[list[dict[str, float]]] = (self.samples[i * n // 10 : (i + 1) * n // 10] for i in range(10))
        peaks = [{k: max((s[k] for s in t), default=0) for k in ("driver", "actors", "decoders")} for t in tenths]
        return {k: [round(p[k]) for p in peaks] for k in ("driver", "actors", "decoders")}


def _counts(words: str) -> bool:
    """Ray's own servers and idle workers are not the stage's."""
    return "decoder_child" in words or "ExtractActor" in words


if __name__ == "__main__":
    main()
