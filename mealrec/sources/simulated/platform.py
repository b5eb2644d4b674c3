"""Build the platform in a folder: videos in parallel, then logs, then the truth."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from mealrec.schema import VIDEO_REASONS
from mealrec.sources.landing import SourceError
from mealrec.sources.simulated.clips import usable_clips
from mealrec.sources.simulated.logs import write_logs
from mealrec.sources.simulated.render import render
from mealrec.sources.simulated.truth import TRUTH, Salience, Truth
from mealrec.sources.simulated.world import VideoPlan, plan_videos, plan_viewers

log = logging.getLogger("mealrec.ingest")

SETTINGS = "simulation.json"
WORKERS = 2
SAY_EVERY_S = 5.0


def simulate(
    out: Path,
    *,
    videos: int = 120,
    viewers: int = 400,
    days: int = 14,
    seed: int = 7,
    clips: Path | None = None,
    more_days: int = 0,
) -> Truth:
    """Write a landing folder: videos/, events/, catalogue.jsonl and truth.json.

    Everything follows from the arguments. Run again with the same ones it does nothing; interrupted, it goes on; with
    more_days it adds days (and videos), which stay from then on, and leaves older files as they are. Raises SourceError for a
    folder that holds another platform. Cost: linear in videos x seconds and in viewers x days.
    """
    settings: dict[str, str | int] = {"videos": videos, "viewers": viewers, "days": days, "seed": seed}
    settings["clips"] = str(clips) if clips else ""
    _claim(out, settings)
    if (out / TRUTH).is_file():
        truth = Truth.load(out)
        if int(truth.settings["more_days"]) >= more_days:
            return truth
    plans = plan_videos(seed, videos, days, more_days)
    people = plan_viewers(seed, viewers)
    _render_all(plans, seed, out / "videos", usable_clips(clips) if clips else [])
    rows, rejected = write_logs(seed, plans, people, days + more_days, out / "events", outage=days >= 7)
    _write_catalogue(plans, out / "catalogue.jsonl")
    truth = Truth(
        settings=settings | {"more_days": more_days},
        rows=dict(rows),
        quarantine={
            "sessionize": dict(sorted(rejected.items())),
            "extract": dict(sorted(Counter(p.fault for p in plans if p.fault in VIDEO_REASONS).items())),
        },
        absent={
            "audio": sum(p.fault == "no_sound" for p in plans),
            "text": sum(p.fault == "no_title" for p in plans),
        },
        broken={p.video_id: p.fault for p in plans if p.fault in VIDEO_REASONS},
        salience={
            p.video_id: Salience(topic=p.topic, duration_ms=p.duration_ms, segments_ms=p.segments_ms) for p in plans
        },
        tastes={person.user_id: person.taste for person in people},
    )
    temporary = out / f"{TRUTH}.part"
    temporary.write_text(truth.model_dump_json(indent=1))
    temporary.rename(out / TRUTH)
    log.info("simulated %d videos, %d viewers, %d rows in %s", len(plans), viewers, rows["written"], out)
    return truth


def _claim(out: Path, settings: dict[str, str | int]) -> None:
    """One folder, one platform."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS
    if path.is_file():
        there = json.loads(path.read_text())
        if there != settings:
            raise SourceError(f"{out} holds another simulated platform ({there}); choose another folder or remove it")
        return
    if any(out.iterdir()):
        raise SourceError(f"{out} is not empty and holds no simulated platform; choose another folder")
    path.write_text(json.dumps(settings))


def _render_all(plans: list[VideoPlan], seed: int, folder: Path, clips: list[Path]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    todo = [p for p in plans if not _path(folder, p).is_file() and p.fault != "missing_file"]
    if not todo:
        return
    began = said = time.monotonic()
    # spawn: PyAV's threads do not survive a fork
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = pool.map(partial(_render_one, seed=seed, folder=folder, clips=clips), todo, chunksize=4)
        for done, _ in enumerate(jobs, start=1):
            if time.monotonic() - said > SAY_EVERY_S or done == len(todo):
                said = time.monotonic()
                log.info("rendered %d/%d videos (%.1f/s)", done, len(todo), done / (said - began))


def _render_one(plan: VideoPlan, *, seed: int, folder: Path, clips: list[Path]) -> None:
    render(plan, seed, _path(folder, plan), clips)


def _path(folder: Path, plan: VideoPlan) -> Path:
    return folder / f"{plan.video_id}.mp4"


def _write_catalogue(plans: list[VideoPlan], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for plan in plans:
            record = {"video_id": plan.video_id, "uri": f"videos/{plan.video_id}.mp4", "title": plan.title}
            file.write(json.dumps(record) + "\n")
