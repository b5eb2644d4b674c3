"""The stage on a small landing folder: real Ray, real decoding, one row a video."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from mealrec.cli import app
from mealrec.cluster import ray_cluster
from mealrec.config import RayConfig, RunConfig, override
from mealrec.lake import Lake, Provenance
from mealrec.schema import FEATURES, QUARANTINE, SCHEMAS
from mealrec.sources.folder import catalogue_of_folder
from mealrec.sources.landing import SourceError
from mealrec.stages.extract import extract
from mealrec.stages.summary import StageError
from mealrec.stages.vacuum import clean

pytestmark = [pytest.mark.ray, pytest.mark.media]

Make = Callable[[list[dict[str, Any]]], Path]

HOSTILE = {
    "anim.gif": "unreadable",
    "audio_only.m4a": "no_video_stream",
    "audio_only.mp4": "no_video_stream",
    "av1.mp4": "undecodable",
    "corrupt_hole.mp4": "undecodable",
    "corrupt_mdat.mp4": "undecodable",
    "corrupt_moov.mp4": "unreadable",
    "h264.ts": "undecodable",
    "random.mp4": "not_a_video",
    "text.mp4": "not_a_video",
    "trunc_100b.mp4": "unreadable",
    "trunc_moov_end.mp4": "unreadable",
    "zero.mp4": "empty_file",
}


# the real child, but for videos with this in their path: there it spins in native code with the GIL held, as decord may;
# and while a file `crashes` lies beside a video, it crashes
SPINS = (
    "import os, re, signal\n"
    "from mealrec.features import decoder_child as child\n"
    "decode = child.decode\n"
    "def spin(request, *rest):\n"
    "    if os.path.exists(os.path.dirname(request['path']) + '/crashes'): os.kill(os.getpid(), signal.SIGSEGV)\n"
    "    if 'spins for ever' in request['path']: re.match(r'(a|a)+$', 'a' * 60 + 'b')\n"
    "    return decode(request, *rest)\n"
    "child.decode = spin\n"
    "child.main()\n"
)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests here: a stage that finds Ray connected uses it and leaves it running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEALREC_DECODER", shlex.join([sys.executable, "-c", SPINS]))
        with ray_cluster(RayConfig(num_cpus=2, object_store_mb=80)):
            yield


def row(video: str, uri: str | None = None, title: str | None = None) -> dict[str, Any]:
    return {"video_id": video, "uri": uri, "title": title}


def features(config: RunConfig) -> dict[str, dict[str, Any]]:
    found = Lake(config.lake).read(FEATURES).to_pylist()
    assert len({r["video_id"] for r in found}) == len(found), "one row a video"
    return {r["video_id"]: r for r in found}


def quarantined(config: RunConfig) -> dict[str, str]:
    found = Lake(config.lake).read(QUARANTINE, filters=pc.field("stage") == "extract").to_pylist()
    assert len({r["key"] for r in found}) == len(found), "one row a video"
    return {r["key"]: r["reason"] for r in found}


@pytest.fixture
def platform(make_landing: Make, clips: Path) -> Path:
    """Four good videos and two bad ones below landing/videos."""
    names = {"a": "sound.mp4", "b": "silent.mp4", "c": "one_frame.mp4", "d": "vfr.mp4", "e": "cut.mp4"}
    root = make_landing([row(v, f"videos/{v}.mp4") for v in [*names, "f"]])
    for video, name in names.items():
        shutil.copy(clips / name, root / "videos" / f"{video}.mp4")
    return root


@pytest.mark.slow
def test_every_video_ends_in_exactly_one_table_with_every_modality_or_the_reason_why_not(
    make_landing: Make, run_config: RunConfig, clips: Path
) -> None:
    names = ("sound", "silent", "short_sound", "one_frame", "cut", "audio_only", "text", "zero")
    rows = [row(n, str(clips / f"{n}.mp4"), f"title of {n}") for n in names]
    rows += [row("untitled", str(clips / "sound.mp4"), "  "), row("title only", None, "spicy noodles"), row("nothing")]
    rows += [
        row("gone", "videos/gone.mp4", "x"),
        row("out", "../../etc/passwd", "x"),
        row("web", "http://a/b.mp4", "x"),
    ]
    make_landing(rows)
    config = override(
        run_config,
        [
            "features.audio=aisfx",
            "features.text=minilm",
            "features.thumbnail_height=32",
            "features.max_quarantine_share=0.9",
        ],
    )
    summary = extract(config)
    good, bad = features(config), quarantined(config)

    assert bad == {
        "cut": "unreadable",
        "audio_only": "no_video_stream",
        "text": "not_a_video",
        "zero": "empty_file",
        "nothing": "no_content",
        "gone": "missing_file",
        "out": "uri_not_allowed",
        "web": "uri_not_allowed",
    }
    assert {v: (r["status"], r["absent"]) for v, r in good.items()} == {
        "sound": ("ok", []),
        "silent": ("partial", ["audio:no_audio_stream"]),
        "short_sound": ("partial", ["audio:audio_short"]),
        "one_frame": ("partial", ["audio:no_audio_stream"]),
        "untitled": ("partial", ["text:no_title"]),
        "title only": ("partial", ["audio:no_uri", "video:no_uri"]),
    }
    assert (summary.rows_in, summary.rows_out, summary.version) == (14, 6, 0)
    assert summary.quarantined["uri_not_allowed"] == 2 and sum(summary.quarantined.values()) == 8
    assert summary.details["absent"] == {"audio": 3, "text": 1}
    assert summary.details["frames"] == 2 + 2 + 2 + 1 + 2

    whole = good["sound"]
    for name, shape in {"visual": (2, 1280), "audio": (2, 512), "text": (1, 384), "text_tokens": (3, 384)}.items():
        values = np.frombuffer(whole[name], np.float16).reshape(shape)
        assert np.isfinite(values).all() and values.any(), name
    assert (whole["visual_frames"], whole["visual_dim"]) == (2, 1280)
    assert (whole["audio_slots"], whole["audio_dim"]) == (2, 512)
    assert (whole["text_token_count"], whole["text_dim"]) == (3, 384)
    assert whole["token_times_ms"] == [500, 1500]
    assert [Image.open(io.BytesIO(t)).size for t in whole["thumbnails"]] == [(48, 32)] * 2
    assert good["one_frame"]["visual_frames"] == 1
    assert good["title only"]["visual"] is None and good["title only"]["text_token_count"] == 2


def test_a_decoder_that_spins_for_ever_costs_its_video_alone(
    make_landing: Make, run_config: RunConfig, clips: Path
) -> None:
    names = ["before", "spins for ever", "behind", "spins for ever too", "last"]
    root = make_landing([row(n, f"videos/{n}.mp4") for n in names])
    for name in names:
        shutil.copy(clips / "silent.mp4", root / "videos" / f"{name}.mp4")
    summary = extract(override(run_config, ["features.decode_deadline_s=3", "features.buckets=1"]))
    assert quarantined(run_config) == dict.fromkeys(("spins for ever", "spins for ever too"), "decode_timeout")
    assert sorted(features(run_config)) == ["before", "behind", "last"]
    assert summary.details["done_now"] == 5


def killed_between_its_commits(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    real = Lake.commit_files

    def killed_at_the_second(self: Lake, table: str, *args: Any, **kwargs: Any) -> int:
        if table == FEATURES:
            raise Killed
        return real(self, table, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "commit_files", killed_at_the_second)
        with pytest.raises(Killed):
            extract(config)


def test_a_run_again_has_nothing_to_do(platform: Path, run_config: RunConfig) -> None:
    first = extract(run_config)
    again = extract(run_config)
    assert (first.skipped, again.skipped) == (False, True)
    assert again.counts() == first.counts() and again.version == first.version


def test_only_what_is_new_or_changed_is_decoded_again(platform: Path, run_config: RunConfig, clips: Path) -> None:
    first = extract(run_config)
    before = features(run_config)
    assert (first.details["done_now"], first.details["reused"]) == (6, 0)

    shutil.copy(clips / "sound.mp4", platform / "videos" / "b.mp4")  # changed
    (platform / "videos" / "c.mp4").touch()  # another time, the same bytes
    shutil.copy(clips / "silent.mp4", platform / "videos" / "g.mp4")  # new
    catalogue = [row(v, f"videos/{v}.mp4") for v in "abcefg"]  # d left; e and f are still bad
    (platform / "catalogue.jsonl").write_text("".join(json.dumps(r) + "\n" for r in catalogue))
    second = extract(run_config)
    after = features(run_config)

    assert (second.details["done_now"], second.details["reused"], second.details["rejected_before"]) == (2, 2, 2)
    assert second.quarantined == first.quarantined
    assert sorted(after) == ["a", "b", "c", "g"] and sorted(quarantined(run_config)) == ["e", "f"]
    source = after["c"]["source_stat"]
    assert after["a"] == before["a"] and after["c"] == before["c"] | {"source_stat": source}
    assert after["b"]["content_hash"] == after["a"]["content_hash"] != before["b"]["content_hash"]
    assert second.details["frames"] == 2 + 2 + 1 + 2, "figures are of the whole table, not of this run"
    assert Lake(run_config.lake).read(FEATURES, first.version).num_rows == 4, "the older version stays readable"


def test_a_uri_that_names_another_file_of_the_same_size_and_time_is_decoded_and_no_file_is_read_twice(
    platform: Path, run_config: RunConfig, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = platform / "videos"
    for name, clip in (("b", "silent"), ("other", "sound")):
        data = (clips / f"{clip}.mp4").read_bytes()
        free = 2**16 - len(data)  # filled up by an empty box
        (videos / f"{name}.mp4").write_bytes(data + free.to_bytes(4, "big") + b"free" + bytes(free - 8))
        os.utime(videos / f"{name}.mp4", ns=(0, 0))
    extract(run_config)
    before = features(run_config)
    (videos / "c.mp4").rename(videos / "moved.mp4")
    uris = {v: f"videos/{v}.mp4" for v in "abcdef"} | {"b": "videos/other.mp4", "c": "videos/moved.mp4"}
    (platform / "catalogue.jsonl").write_text("".join(json.dumps(row(v, uri)) + "\n" for v, uri in uris.items()))
    second = extract(run_config)
    assert [second.details[name] for name in ("reused", "rejected_before", "done_now")] == [3, 2, 1]
    after = features(run_config)
    assert after["b"]["content_hash"] != before["b"]["content_hash"]
    assert after["c"] == before["c"] | {"source_stat": before["c"]["source_stat"].replace("c.mp4", "moved.mp4")}
    monkeypatch.setattr("mealrec.features.held.file_hash", lambda path: pytest.fail(f"{path} is read again"))
    with (platform / "catalogue.jsonl").open("a") as catalogue:
        catalogue.write(json.dumps(row("g", "videos/a.mp4")) + "\n")
    assert extract(run_config).details["reused"] == 4


@pytest.mark.night
def test_lower_limits_hold_for_what_is_there_as_for_what_is_new(
    platform: Path, run_config: RunConfig, tmp_path: Path
) -> None:
    keeping = override(run_config, ["features.keep_frames=true", "features.max_quarantine_share=1"])
    extract(keeping)
    strict = override(keeping, ["features.max_seconds=3"])  # which one of four does not pass
    lowered, anew = extract(strict), extract(override(strict, [f"lake={tmp_path / 'anew'}"]))
    assert (lowered.rows_out, lowered.quarantined) == (anew.rows_out, anew.quarantined)
    assert quarantined(strict)["d"] == "too_long" and (lowered.details["reused"], anew.rows_out) == (0, 3)
    raised = extract(keeping)
    assert raised.details["reused"] == 3 and "d" in features(keeping), "what passed lower limits stands"
    for video in "abc":
        (platform / "videos" / f"{video}.mp4").touch()  # the same bytes: their parts are rewritten with another time
    assert extract(keeping).details["reused"] == 4
    carried = extract(override(keeping, ["features.max_seconds=4"]))
    assert carried.details["reused"] == 3, "also where its part was rewritten"


@pytest.mark.night
def test_a_whole_run_does_not_take_over_what_an_interrupted_one_finished(
    platform: Path, run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_between_its_commits(run_config, monkeypatch)
    assert extract(run_config, full=True).details["done_now"] == 6


@pytest.mark.night
def test_frames_that_can_not_be_kept_cost_no_video_and_not_the_run(
    platform: Path, run_config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    work = platform / "work"
    work.touch()  # holds for root too, whom no read-only folder stops
    config = override(run_config, ["features.keep_frames=true", f"work={work}"])
    with caplog.at_level(logging.INFO, "mealrec.extract"):
        assert extract(config).rows_out == 4
    assert any("frames are not kept: " in line for line in caplog.messages)


def test_what_was_rejected_stays_so_until_it_may_be_otherwise(
    platform: Path, run_config: RunConfig, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rejected(config: RunConfig, **options: Any) -> tuple[int, int]:
        summary = extract(config, **options)
        assert sum(summary.quarantined.values()) == len(quarantined(config))
        return summary.details["rejected_before"], summary.details["done_now"]

    assert rejected(run_config) == (0, 6)
    days = Lake(run_config.lake).read(QUARANTINE, columns=["key", "ingest_date"]).to_pylist()
    catalogue = [*(row(v, f"videos/{v}.mp4") for v in "abcdefg"), row("h")]
    (platform / "catalogue.jsonl").write_text("".join(json.dumps(r) + "\n" for r in catalogue))
    shutil.copy(clips / "silent.mp4", platform / "videos" / "g.mp4")
    killed_between_its_commits(run_config, monkeypatch)
    assert rejected(run_config) == (2, 0), "finished parts are found, and a killed run is not what is built upon"
    now = Lake(run_config.lake).read(QUARANTINE, columns=["key", "ingest_date"]).to_pylist()
    assert [one for one in now if one["key"] != "h"] == days, "the day on which it was rejected stays"
    (platform / "videos" / "e.mp4").touch()
    shutil.copy(clips / "silent.mp4", platform / "videos" / "f.mp4")  # there at last
    assert rejected(run_config) == (1, 2) and "f" in features(run_config), "h alone is as it was"
    assert rejected(run_config, full=True) == (0, 8)


def test_other_encoders_need_no_decoding_where_frames_are_kept(
    platform: Path, run_config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = override(run_config, ["features.keep_frames=true", "features.thumbnail_height=0"])
    assert extract(keeping).details["from_kept_frames"] == 0
    with caplog.at_level(logging.INFO, "mealrec.extract"):
        others = extract(override(keeping, ["features.thumbnail_height=32"]))
        extract(override(keeping, ["features.keep_frames=false", "features.thumbnail_height=48"]))
    assert others.details["from_kept_frames"] == 4
    assert extract(keeping, full=True).details["from_kept_frames"] == 0, "a full run decodes every video again"
    assert "4 videos were encoded by others: their kept frames are used where there are some" in caplog.messages
    assert any(line.startswith("4 videos were encoded by others and must be decoded again") for line in caplog.messages)


def test_a_part_that_can_not_be_written_stops_the_stage_with_the_reason_and_commits_nothing(
    platform: Path, run_config: RunConfig
) -> None:
    in_the_way = Path(run_config.lake) / FEATURES / "bucket=0"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()  # holds for root too, whom no read-only folder stops
    with pytest.raises(StageError, match=r"bucket=0.*nothing was committed"):
        extract(run_config)
    assert not Lake(run_config.lake).exists(FEATURES) and not Lake(run_config.lake).exists(QUARANTINE)
    in_the_way.unlink()
    extract(run_config)
    assert (sorted(features(run_config)), sorted(quarantined(run_config))) == (["a", "b", "c", "d"], ["e", "f"])


def test_too_many_bad_videos_stop_the_stage_before_it_commits(platform: Path, run_config: RunConfig) -> None:
    strict = override(run_config, ["features.max_quarantine_share=0.3"])
    with pytest.raises(StageError, match="2 of 6 videos rejected"):
        extract(strict)
    assert not Lake(strict.lake).exists(FEATURES) and not Lake(strict.lake).exists(QUARANTINE)


def test_what_a_crashing_decoder_took_along_is_tried_by_the_next_run(platform: Path, run_config: RunConfig) -> None:
    broken = platform / "videos" / "crashes"
    broken.touch()
    for options in ({}, {"full": True}):
        with pytest.raises(StageError, match=r"6 of 6 videos rejected.*'decoder_crashed': 5"):
            extract(run_config, **options)
    broken.unlink()
    summary = extract(run_config)
    assert summary.quarantined == {"missing_file": 1, "unreadable": 1}
    assert summary.details["done_now"] == 5, "the file that is missing was found to be so"


def test_a_run_again_tries_what_may_pass_and_is_up_to_date_where_it_did_not(
    platform: Path, run_config: RunConfig
) -> None:
    (platform / "videos" / "a").mkdir()
    (platform / "videos" / "a.mp4").rename(platform / "videos" / "a" / "a.mp4")
    catalogue = [row(v, f"videos/{v}.mp4") for v in "bcdef"] + [row("a", "videos/a/a.mp4")]
    (platform / "catalogue.jsonl").write_text("".join(json.dumps(r) + "\n" for r in catalogue))
    broken = platform / "videos" / "a" / "crashes"
    broken.touch()
    first = extract(run_config)
    assert quarantined(run_config) == {"a": "decoder_crashed", "e": "unreadable", "f": "missing_file"}
    for _ in range(2):
        again = extract(run_config)
        assert again.skipped and again.version == first.version, "tried, and as before"
        for table in (FEATURES, QUARANTINE):
            assert clean(Lake(run_config.lake), table, orphan_hours=1) == [], "and nobody waits for it"
    broken.unlink()
    second = extract(run_config)
    assert [second.details[name] for name in ("reused", "rejected_before", "done_now")] == [3, 2, 1]
    assert "a" in features(run_config) and sorted(quarantined(run_config)) == ["e", "f"]
    assert extract(run_config).skipped


def test_killed_between_its_two_commits_the_stage_ends_the_same(
    platform: Path, run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_between_its_commits(run_config, monkeypatch)
    assert not Lake(run_config.lake).exists(FEATURES)
    summary = extract(run_config)
    assert summary.details["done_now"] == 0, "finished parts are found"
    assert (sorted(features(run_config)), sorted(quarantined(run_config))) == (["a", "b", "c", "d"], ["e", "f"])
    assert Lake(run_config.lake).version(QUARANTINE) == 0, "and not committed twice"


def test_of_two_runs_at_once_the_newer_one_wins_though_the_older_had_begun_to_commit(
    make_landing: Make, run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_landing([row("gone", "videos/gone.mp4")])
    config, lake = override(run_config, ["features.max_quarantine_share=1"]), Lake(run_config.lake)
    real, claim = Lake.commit_files, Lake.claim
    older: list[Callable[[], int]] = []

    def stopped_before_it(*args: Any, **kwargs: Any) -> int:
        older.append(lambda: real(*args, **kwargs))
        raise KeyboardInterrupt

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        taken = claim(*args, **kwargs)
        with monkeypatch.context() as patch:
            patch.setattr("mealrec.claims.check", lambda *_: None)  # it had looked just before
            older.pop()()
        return taken

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Lake, "commit_files", stopped_before_it)
        extract(config, run_id="older")
    make_landing([row("gone", "videos/gone.mp4"), {"title": "a row without a video"}])
    monkeypatch.setattr(Lake, "claim", meanwhile)
    assert extract(config, run_id="newer").quarantined == {"missing_file": 1, "missing_key": 1}
    assert (lake.version(FEATURES), lake.read(QUARANTINE).num_rows) == (0, 2)


def test_what_a_run_finished_before_midnight_is_not_done_again_after_it(
    platform: Path, run_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_between_its_commits(run_config, monkeypatch)

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=1)

    monkeypatch.setattr("mealrec.stages.extract.datetime", Tomorrow)
    assert extract(run_config).details["done_now"] == 0
    assert sorted(quarantined(run_config)) == ["e", "f"]
    assert Lake(run_config.lake).version(QUARANTINE) == 0, "and its parts are not committed twice"


def test_quarantine_rows_of_other_stages_stay_and_the_actors_lines_arrive(
    platform: Path, run_config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    other = dict.fromkeys(SCHEMAS[QUARANTINE].names) | {"reason": "future", "key": "e1"}
    other |= {"stage": "sessionize", "ingest_date": "2026-01-01"}
    lake = Lake(run_config.lake)
    lake.write(QUARANTINE, pa.Table.from_pylist([other], schema=SCHEMAS[QUARANTINE]), Provenance("sessionize", "d"))
    with caplog.at_level(logging.INFO, "mealrec.extract"):
        extract(run_config)
    assert {"worker: e rejected: unreadable", "worker: f rejected: missing_file"} <= set(caplog.messages)
    reasons = sorted(r["reason"] for r in lake.read(QUARANTINE).to_pylist())
    assert reasons == ["future", "missing_file", "unreadable"]


@pytest.mark.slow
def test_every_real_and_every_hostile_clip_ends_in_exactly_one_table(
    run_config: RunConfig, make_landing: Make, real_data: Path
) -> None:
    files = sorted(p for folder in ("real", "hostile") for p in (real_data / "clips" / folder).iterdir())
    make_landing([row(f"{p.parent.name}/{p.name}", str(p)) for p in files])
    config = override(run_config, ["features.audio=aisfx", "features.actors=2"])
    summary = extract(config)
    good, bad = set(features(config)), quarantined(config)
    assert not good & set(bad)
    assert {name.removeprefix("hostile/"): reason for name, reason in bad.items()} == HOSTILE
    assert len(good) + len(bad) == len(files) == 70
    assert all(name.startswith("hostile/") for name in bad), "every real clip decodes"
    assert summary.quarantined == {
        "empty_file": 1,
        "no_video_stream": 2,
        "not_a_video": 2,
        "undecodable": 4,
        "unreadable": 4,
    }


def quarantine_rows(config: RunConfig) -> list[dict[str, Any]]:
    found = Lake(config.lake).read(QUARANTINE, filters=pc.field("stage") == "extract").to_pylist()
    return sorted(found, key=lambda r: (r["line"] or 0, r["key"] or ""))


def test_a_bad_row_of_the_catalogue_is_told_by_its_line_and_the_rest_goes_on(
    platform: Path, run_config: RunConfig, clips: Path
) -> None:
    catalogue = platform / "catalogue.jsonl"
    bad = [b'{"video_id": "e", "title": "again"}', b'{"video_id": "caf\xe9"}', b'{"uri": "nobody.mp4"}']
    catalogue.write_bytes(catalogue.read_bytes() + b"\n".join(bad))
    config = override(run_config, ["features.max_quarantine_share=0.6"])
    summary = extract(config)
    assert (summary.rows_in, summary.rows_out, summary.details["rejected_before"]) == (9, 4, 0)
    reasons = {"duplicate_video": 1, "missing_file": 1, "missing_key": 1, "unparseable": 1, "unreadable": 1}
    assert summary.quarantined == reasons
    of_rows = [
        (r["source_file"], r["line"], r["reason"], r["key"])
        for r in quarantine_rows(run_config)
        if r["line"] is not None
    ]
    assert of_rows == [
        ("catalogue.jsonl", 7, "duplicate_video", "e"),
        ("catalogue.jsonl", 8, "unparseable", None),
        ("catalogue.jsonl", 9, "missing_key", None),
    ]
    assert quarantine_rows(run_config)[-2]["payload"] == '{"video_id": "caf\ufffd"}'
    assert extract(config).skipped
    shutil.copy(clips / "silent.mp4", platform / "videos" / "f.mp4")
    lines = catalogue.read_bytes().splitlines(keepends=True)
    catalogue.write_bytes(b"".join([*lines[:7], lines[8]]))
    summary = extract(config)
    assert [summary.details[name] for name in ("reused", "rejected_before", "done_now")] == [4, 1, 1]
    assert summary.quarantined == {"duplicate_video": 1, "missing_key": 1, "unreadable": 1}
    assert [r["line"] for r in quarantine_rows(run_config)] == [None, 7, 8]
    catalogue.write_bytes(b"".join(lines[:6]) + b"{}\n" * 40)
    with pytest.raises(StageError, match=r"41 of 46 videos rejected.*'missing_key': 40"):
        extract(config)


def test_a_folder_of_files_is_a_source_of_its_own_and_its_links_do_not_lead_out_of_it(
    tmp_path: Path, run_config: RunConfig, clips: Path
) -> None:
    folder, secret = tmp_path / "folder", tmp_path / "secret.mp4"
    folder.mkdir()
    shutil.copy(clips / "silent.mp4", secret)
    shutil.copy(clips / "silent.mp4", folder / "a.mp4")
    (folder / "link.mp4").symlink_to(secret)
    (folder / "inside.mp4").symlink_to("a.mp4")
    shutil.copy(clips / "silent.mp4", os.fsencode(folder) + b"/caf\xe9.mp4")
    lake = folder / "lake"
    own = lake / "_work" / "landing" / "catalogue.jsonl"
    own.parent.mkdir(parents=True)
    own.write_text('{"video_id": "own"}\n')
    config = run_config.model_copy(update={"lake": str(lake)})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = ["extract", "--config", str(tmp_path / "config.json"), "--json", "--videos"]

    app([*command, str(folder)], standalone_mode=False)
    assert sorted(features(config)) == ["a.mp4", "inside.mp4"]
    found = {r["reason"]: r for r in quarantine_rows(config)}
    assert set(found) == {"uri_not_allowed", "unparseable"} and found["uri_not_allowed"]["key"] == "link.mp4"
    assert "caf\ufffd.mp4" in found["unparseable"]["payload"]
    assert own.read_text() == '{"video_id": "own"}\n', "the catalogue of the lake's own source stays"
    version = Lake(config.lake).version(FEATURES)
    app([*command, str(folder)], standalone_mode=False)
    assert Lake(config.lake).version(FEATURES) == version


@pytest.mark.night
def test_a_folder_of_files_does_not_replace_the_features_of_another_source(
    platform: Path, run_config: RunConfig, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").mkdir()
    shutil.copy(clips / "silent.mp4", tmp_path / "folder" / "x.mp4")
    other = catalogue_of_folder(tmp_path / "folder", tmp_path / "catalogues")
    extract(run_config)
    with pytest.raises(SourceError, match=r"are of .*landing; those of .*folder would replace them: .* \(--lake\)"):
        extract(run_config, landing=other)
    assert sorted(features(run_config)) == ["a", "b", "c", "d"]
    alone = run_config.model_copy(update={"lake": str(tmp_path / "alone")})
    extract(alone, landing=other)
    assert sorted(features(alone)) == ["x.mp4"]
    with caplog.at_level(logging.WARNING, "mealrec.extract"):
        extract(alone)
    assert any("the features so far are of" in line and "folder" in line for line in caplog.messages)
