"""Ids and uris from outside name nothing outside their folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mealrec.config import FeaturesConfig
from mealrec.features.extract import plan
from mealrec.features.probe import VideoRejected, probe
from mealrec.features.rows import Wanted
from mealrec.sources.landing import Landing

MP4 = b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 600
CONFIG = FeaturesConfig()
PART = re.compile(r"(bucket=\d+|stage=extract/ingest_date=2026-01-05)/part-[0-9a-f]+\.parquet")


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    """A folder with one good video, beside a secret that looks like one."""
    root = tmp_path / "landing"
    (root / "videos").mkdir(parents=True)
    (root / "videos" / "a.mp4").write_bytes(MP4)
    (tmp_path / "secret.mp4").write_bytes(MP4)
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "folder").symlink_to(tmp_path)
    (root / "inside.mp4").symlink_to(root / "videos" / "a.mp4")
    return Landing(root)


@pytest.mark.parametrize("uri", ["videos/a.mp4", "videos/../videos/a.mp4", "inside.mp4", "./videos//a.mp4"])
def test_what_stays_inside_is_read(uri: str, landing: Landing) -> None:
    assert probe(uri, landing.root, CONFIG).size == len(MP4)
    assert landing.stat(uri) is not None


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("../secret.mp4", "uri_not_allowed"),
        ("videos/../../secret.mp4", "uri_not_allowed"),
        ("link.mp4", "uri_not_allowed"),
        ("folder/secret.mp4", "uri_not_allowed"),
        ("http://127.0.0.1/a.mp4", "uri_not_allowed"),
        ("ftp://host/a.mp4", "uri_not_allowed"),
        ("s3://bucket/a.mp4", "uri_not_allowed"),
        ("file://videos/a.mp4", "uri_not_allowed"),
        ("concat:a|b", "missing_file"),
        ("videos/a.mp4\0.txt", "missing_file"),
        ("videos", "missing_file"),
        ("a" * 5000, "missing_file"),
        ("~/a.mp4", "missing_file"),
        ("$HOME/a.mp4", "missing_file"),
    ],
)
def test_what_leaves_the_folder_or_names_another_place_is_rejected_and_not_even_looked_at(
    uri: str, reason: str, landing: Landing
) -> None:
    with pytest.raises(VideoRejected) as rejected:
        probe(uri, landing.root, CONFIG)
    assert rejected.value.reason == reason
    if reason == "uri_not_allowed":
        assert landing.stat(uri) is None


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin", "/proc/self/environ"])
def test_a_device_is_no_video_even_by_an_absolute_path(name: str, landing: Landing) -> None:
    with pytest.raises(VideoRejected) as rejected:
        probe(name, landing.root, CONFIG)
    assert rejected.value.reason in ("missing_file", "empty_file", "not_a_video", "unreadable")


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8, unique=True))
def test_no_id_becomes_part_of_a_path(ids: list[str]) -> None:
    known = ["../../x", "/etc/passwd", "a/b", "..", "a\0b", "bucket=0", "%2e%2e%2f"]
    small = CONFIG.model_copy(update={"buckets": 2})
    for block in plan([Wanted(video, None, "title", "") for video in {*ids, *known}], small, "2026-01-05", "attempt"):
        assert PART.fullmatch(block.features_part) and PART.fullmatch(block.quarantine_part)
