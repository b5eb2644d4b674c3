"""A file is looked at before anything decodes it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mealrec.config import FeaturesConfig
from mealrec.features.probe import VideoRejected, container_of, probe
from mealrec.features.rows import file_hash
from mealrec.sources.landing import Landing

CONFIG = FeaturesConfig()
MP4 = b"\0\0\0\x18ftypisom"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.mp4").write_bytes(MP4)
    (tmp_path / "root" / "a b ü.mp4").write_bytes(MP4)
    (tmp_path / "root" / "empty.mp4").touch()
    (tmp_path / "root" / "text.mp4").write_text("hello, I am a text file")
    (tmp_path / "root" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    return tmp_path / "root"


def reason(uri: str, root: Path, config: FeaturesConfig = CONFIG) -> str:
    with pytest.raises(VideoRejected) as caught:
        probe(uri, root, config)
    return caught.value.reason


def test_a_video_below_the_root_passes_by_relative_path_absolute_path_and_file_uri(root: Path) -> None:
    path = root / "a b ü.mp4"
    for uri in ("a b ü.mp4", str(path), f"file://{path}", path.as_uri()):
        assert Landing(root).stat(uri) == [len(MP4), path.stat().st_mtime_ns]
        found = probe(uri, root, CONFIG)
        assert (found.container, found.size, found.path.name) == ("mp4", len(MP4), "a b ü.mp4")


@pytest.mark.parametrize("uri", ["../secret.mp4", "x/../../secret.mp4", "link.mp4"])
def test_a_relative_uri_may_not_leave_the_root_not_even_by_a_link(root: Path, uri: str) -> None:
    assert reason(uri, root) == "uri_not_allowed"


def test_nor_may_an_absolute_one_by_a_link_below_the_root(root: Path) -> None:
    above = f"file://{root}/%2e%2e/secret.mp4"
    for uri in (str(root / "link.mp4"), f"file://{root}/link.mp4", f"{root}/../secret.mp4", above):
        assert reason(uri, root) == "uri_not_allowed"
    assert probe(str(root.parent / "secret.mp4"), root, CONFIG).size == len(MP4), "elsewhere: the catalogue's own word"


@pytest.mark.parametrize("text", ["#EXTM3U\n#EXTINF:1\nsecret.mp4\n", "ffconcat version 1.0\nfile secret.mp4\n"])
def test_playlists_are_no_videos_whatever_they_are_called(root: Path, text: str) -> None:
    (root / "list.mp4").write_text(text)
    assert reason("list.mp4", root) == "not_a_video"


@pytest.mark.parametrize("uri", ["http://host/a.mp4", "s3://bucket/a.mp4", "file://a.mp4", "concat://a|b"])
def test_other_schemes_are_not_fetched(root: Path, uri: str) -> None:
    assert reason(uri, root) == "uri_not_allowed"


@pytest.mark.parametrize("uri", ["nowhere.mp4", ".", "a" * 5000, "null\0byte.mp4"])
def test_what_is_no_file_is_missing(root: Path, uri: str) -> None:
    assert reason(uri, root) == "missing_file"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE])
def test_what_is_no_files_fault_is_not_its_reason(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mealrec.features.probe.open_regular", failing)
    with pytest.raises(OSError, match=os.strerror(number)):
        probe("a b ü.mp4", root, CONFIG)


@pytest.mark.timeout(20)
def test_a_fifo_that_takes_a_videos_place_at_the_last_moment_is_not_waited_for(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "now.mp4")
    monkeypatch.setattr(Path, "is_file", lambda path: True)  # as it was when it was looked at
    assert reason("now.mp4", root) == "missing_file"
    with pytest.raises(OSError, match="no regular file"):
        file_hash(root / "now.mp4")


def test_links_in_a_circle_name_no_file(root: Path) -> None:
    (root / "round.mp4").symlink_to("about.mp4")
    (root / "about.mp4").symlink_to("round.mp4")
    for uri in ("round.mp4", f"{root}/round.mp4"):
        assert reason(uri, root) == "missing_file"
        assert Landing(root).stat(uri) is None


def test_empty_files_other_files_and_large_files_are_told_apart(root: Path) -> None:
    assert reason("empty.mp4", root) == "empty_file"
    assert reason("text.mp4", root) == "not_a_video"
    assert reason("a b ü.mp4", root, FeaturesConfig(max_bytes=5)) == "too_large"


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (MP4, "mp4"),
        (b"\x1aE\xdf\xa3rest", "matroska"),
        (b"RIFF1234AVI LIST", "avi"),
        (b"RIFF1234WAVEfmt ", None),
        (b"FLV\x01", "flv"),
        (b"GIF89a", "gif"),
        (b"\x47" + b"\0" * 187 + b"\x47" + b"\0" * 9, "mpegts"),
        (b"\x47" + b"\0" * 400, None),
        (b"\x7fELF", None),
        (b"", None),
    ],
)
def test_the_container_is_known_by_its_first_bytes(head: bytes, container: str | None) -> None:
    assert container_of(head) == container
