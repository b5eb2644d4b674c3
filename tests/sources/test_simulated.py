"""The simulated platform: what it says of itself is true, and everything follows from the seed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import av
import pytest

from mealrec.schema import EVENT_COLUMNS, EVENT_REASONS
from mealrec.sources.landing import Landing, SourceError
from mealrec.sources.simulated import Truth, simulate

pytestmark = pytest.mark.media
SIZE = {"videos": 12, "viewers": 20, "days": 7, "seed": 3}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("platform") / "landing"
    simulate(out, **SIZE)
    return out


def times(folder: Path) -> dict[str, int]:
    """Times of change of the event files and videos."""
    return {str(p): p.stat().st_mtime_ns for part in ("events", "videos") for p in (folder / part).iterdir()}


def hashes(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.glob(pattern))
        if p.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(platform: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "same", **SIZE)
    assert hashes(platform) == hashes(tmp_path / "same")
    simulate(tmp_path / "other", **(SIZE | {"seed": 4}))
    assert hashes(platform)["truth.json"] != hashes(tmp_path / "other")["truth.json"]


def test_an_interrupted_platform_is_finished_and_equal(platform: Path, tmp_path: Path) -> None:
    simulate(tmp_path / "cut", **SIZE)
    whole = hashes(tmp_path / "cut")
    for name in ("truth.json", "catalogue.jsonl", "videos/v00003.mp4", "events/events-2026-01-08.jsonl"):
        (tmp_path / "cut" / name).unlink(missing_ok=True)
    simulate(tmp_path / "cut", **SIZE)
    assert hashes(tmp_path / "cut") == whole == hashes(platform)


def test_videos_are_real_upright_mp4_with_sound_but_for_the_planted_faults(platform: Path) -> None:
    truth = Truth.load(platform)
    assert Counter(truth.broken.values()) == {"missing_file": 1, "empty_file": 1, "not_a_video": 1, "unreadable": 1}
    silent = 0
    for video, known in truth.salience.items():
        if video in truth.broken:
            continue
        with av.open(str(platform / "videos" / f"{video}.mp4")) as file:
            stream = file.streams.video[0]
            assert stream.codec_context.name == "h264" and stream.height > stream.width
            silent += not file.streams.audio
            assert abs(file.duration / 1e6 - known.duration_ms / 1000) < 0.35
    assert silent == truth.absent["audio"] == 1


def test_rows_are_counted_as_they_are(platform: Path) -> None:
    truth = Truth.load(platform)
    lines = [line for file in Landing(platform).event_files() for line in file.read_text().splitlines()]
    assert len(lines) == truth.rows["written"]
    # these four depend on settings or on many rows, and have tests of their own (tests/spark_jobs)
    elsewhere = {"oversize_field", "too_late", "duplicate_content", "bot_like_rate"}
    assert set(truth.quarantine["sessionize"]) == set(EVENT_REASONS) - elsewhere
    assert truth.rows["valid"] == len(lines) - sum(truth.quarantine["sessionize"].values())
    bad = Counter(line.split("bad-")[1].split("-")[0] for line in lines if '"bad-' in line)
    assert bad["future"] == truth.quarantine["sessionize"]["future"]
    ids = Counter(
        json.loads(line)["event_id"] for line in lines if line.startswith('{"event_id": "e') and line[-1] == "}"
    )
    assert sum(n - 1 for n in ids.values()) == truth.quarantine["sessionize"]["duplicate_event"]
    one = json.loads(next(line for line in lines if line.startswith('{"event_id": "e')))
    assert tuple(one) == EVENT_COLUMNS
    assert (platform / "events" / "events-2026-01-10.jsonl").read_text() == ""  # the outage


def test_rows_arrive_out_of_order_and_late(platform: Path) -> None:
    truth = Truth.load(platform)
    assert truth.rows["late"] > 0
    first = (platform / "events" / "events-2026-01-05.jsonl").read_text().splitlines()
    times = [json.loads(line)["timestamp"] for line in first if line.startswith('{"event_id": "e')]
    numbers = [t for t in times if isinstance(t, int)]
    assert numbers != sorted(numbers) and len(numbers) < len(times)  # some are ISO-8601


def test_viewers_watch_what_they_like_longer(platform: Path) -> None:
    truth = Truth.load(platform)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for file in Landing(platform).event_files():
        for line in file.read_text().splitlines():
            if not line.startswith('{"event_id": "e') or line[-1] != "}":
                continue
            row = json.loads(line)
            if row["event_type"] == "view":
                liked = truth.salience[row["video_id"]].topic in truth.tastes[row["user_id"]]
                ratios[liked].append(row["watch_ms"] / row["duration_ms"])
    assert sum(ratios[True]) / len(ratios[True]) > 3 * sum(ratios[False]) / len(ratios[False])


def test_added_days_leave_older_files_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "growing"
    simulate(out, **SIZE)
    before, touched = hashes(out, "events/*") | hashes(out, "videos/*"), times(out)
    truth = simulate(out, **SIZE, more_days=2)
    after = hashes(out, "events/*") | hashes(out, "videos/*")
    assert {k: after[k] for k in before} == before
    assert {k: times(out)[k] for k in touched} == touched, "a night reads again what was touched"
    assert len(hashes(out, "events/*")) == 9 and len(truth.salience) == 14
    # a run of the same platform does not take the added days away
    assert simulate(out, **SIZE) == truth and len(hashes(out, "events/*")) == 9


def test_salient_moments_lie_inside_the_segments(platform: Path) -> None:
    truth = Truth.load(platform)
    video, known = next(iter(truth.salience.items()))
    start, end = known.segments_ms[0]
    assert truth.salient(video, [start, end - 1, end]) == [True, True, False]
    share = sum(b - a for k in truth.salience.values() for a, b in k.segments_ms) / sum(
        k.duration_ms for k in truth.salience.values()
    )
    assert 0.3 < share < 0.5


def test_topic_segments_can_come_from_real_clips(platform: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    source = next(p for p in sorted((platform / "videos").glob("*.mp4")) if p.stat().st_size > 20_000)
    (clips / "a.mp4").write_bytes(source.read_bytes())
    (clips / "broken.mp4").write_bytes(b"nothing")
    simulate(tmp_path / "cut", **(SIZE | {"videos": 8, "viewers": 8}), clips=clips)
    drawn = hashes(platform, "videos/*.mp4")
    cut = hashes(tmp_path / "cut", "videos/*.mp4")
    assert cut and all(drawn.get(name) != value for name, value in cut.items() if name not in ("videos/v00000.mp4",))
    (clips / "a.mp4").unlink()
    with pytest.raises(SourceError, match="no usable clip"):
        simulate(tmp_path / "none", **SIZE, clips=clips)


def test_a_folder_holds_one_platform(platform: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds another simulated platform"):
        simulate(platform, **(SIZE | {"seed": 5}))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(SourceError, match="not empty"):
        simulate(tmp_path / "mine", **SIZE)
    with pytest.raises(SourceError, match="not simulated"):
        Truth.load(tmp_path)
