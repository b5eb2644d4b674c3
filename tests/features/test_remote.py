"""Videos in an object store that answers for some of them alone; a small HTTP server is the store."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from mealrec.config import FeaturesConfig
from mealrec.features import remote
from mealrec.features.probe import VideoRejected
from mealrec.features.remote import NOT_ASKED, _object, _store, local_file, remote_stats, sweep_copies

CONFIG = FeaturesConfig(url_schemes=("s3",))


class Bucket(BaseHTTPRequestHandler):
    """Every object has 5 bytes; it denies those with "denied" in their names."""

    def do_HEAD(self) -> None:
        self.send_response(403 if "denied" in self.path else 200)
        self.send_header("Content-Length", "5")
        self.send_header("Last-Modified", "Mon, 05 Jan 2026 00:00:00 GMT")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its uri; the process's AWS_* variables point to the server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield f"s3://videos-{server.server_port}"
        server.shutdown()
    _store.cache_clear()


def test_an_object_that_is_denied_and_a_path_that_is_none_cost_themselves_alone(bucket: str, tmp_path: Path) -> None:
    uris = [f"{bucket}/{key}" for key in ("a.mp4", "denied.mp4", "/empty.mp4", "b.mp4")]
    found = remote_stats(uris)
    assert (
        found == {uris[0]: found[uris[3]], uris[1]: NOT_ASKED, uris[3]: found[uris[0]]} and found[uris[0]] != NOT_ASKED
    )
    for uri, reason, lasting in ((uris[1], "unreachable", False), (uris[2], "uri_not_allowed", True)):
        with pytest.raises(VideoRejected) as caught, local_file(uri, tmp_path, CONFIG):
            pass
        assert (caught.value.reason, caught.value.lasting) == (reason, lasting)


def test_a_store_that_answers_for_no_object_is_away(bucket: str) -> None:
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        remote_stats([f"{bucket}/denied-{i}.mp4" for i in range(3)])
    assert remote_stats([f"{bucket}//empty.mp4"]) == {}


def test_an_azure_container_is_the_first_part_of_the_path() -> None:
    filesystem, path = _object("abfs://account.blob.core.windows.net/container/a%20b.mp4")
    assert isinstance(filesystem, pafs.AzureFileSystem)
    assert path == "container/a b.mp4"


def says(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """What Arrow is asked for from now on, each time with this error: as S3's file system, which asks for a bucket's region."""
    asked: list[str] = []

    def from_uri(uri: str) -> None:
        asked.append(uri)
        raise error

    _store.cache_clear()
    arrow = SimpleNamespace(
        FileSystem=SimpleNamespace(from_uri=from_uri), FileInfo=pafs.FileInfo, FileType=pafs.FileType
    )
    monkeypatch.setattr(remote, "pafs", arrow)
    return asked


def reason(folder: Path, uri: str = "s3://bucket/a.mp4", config: FeaturesConfig = CONFIG) -> tuple[str, bool]:
    with pytest.raises(VideoRejected) as caught, local_file(uri, folder, config):
        pass
    return caught.value.reason, caught.value.lasting


def test_a_store_that_can_not_be_reached_at_all_is_away_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = says(monkeypatch, OSError("When resolving region for bucket 'bucket': AWS Error NETWORK_CONNECTION"))
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        remote_stats([f"s3://bucket/{i}.mp4" for i in range(3)])
    assert asked == ["s3://bucket"]
    assert reason(tmp_path) == ("unreachable", False), "of a worker's own store its video is tried again"


def test_a_bucket_that_is_nowhere_costs_its_own_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, OSError("Bucket 'bucket' not found"))
    assert remote_stats(["s3://bucket/a.mp4"]) == {}
    assert reason(tmp_path) == ("missing_file", True)


MP4 = b"\0\0\0\x18ftypisom" + bytes(3 << 20)  # four parts


@dataclass
class Shelf:
    """A store of one object. `meddle` is called before each part that is read, with the number of those before it."""

    data: bytes = MP4
    time_ns: int = 1
    tag: bytes = b"a"
    announced: int | None = None
    meddle: Callable[[int], object] = lambda number: None
    reads: list[int] = field(default_factory=list)

    def get_file_info(self, path: str) -> pafs.FileInfo:
        size = len(self.data) if self.announced is None else self.announced
        return pafs.FileInfo(path, pafs.FileType.File, size=size, mtime_ns=self.time_ns)

    def open_input_file(self, path: str) -> io.BytesIO:
        shelf = self

        class Source(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                shelf.meddle(len(shelf.reads))
                shelf.reads.append(self.tell())
                part = shelf.data[self.tell() :][:size]
                self.seek(len(part), io.SEEK_CUR)
                return part

            def metadata(self) -> dict[str, bytes]:
                return {"ETag": shelf.tag}

        return Source(self.data)


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    one = Shelf()
    monkeypatch.setattr(remote, "_store", lambda bucket: (one, "bucket"))
    return one


def test_an_object_is_copied_whole(shelf: Shelf, tmp_path: Path) -> None:
    with local_file("s3://bucket/a.mp4", tmp_path, CONFIG) as found:
        assert found.path.read_bytes() == MP4


@pytest.mark.parametrize("what", ["time", "tag", "size", "gone"])
def test_an_object_that_is_another_one_before_its_copy_is_whole_is_tried_again(
    shelf: Shelf, tmp_path: Path, what: str
) -> None:
    def meddle(number: int) -> None:
        if number != 2:
            return
        if what == "gone":
            raise FileNotFoundError("a.mp4")
        shelf.data = MP4[:-1] + b"1" if what != "size" else MP4[:-1]
        if what == "time":
            shelf.time_ns = 2
        if what == "tag":  # replaced within the second that its time is told by
            shelf.tag = b"b"

    shelf.meddle = meddle
    assert reason(tmp_path) == ("missing_file" if what == "gone" else "changed_while_read", False)


def test_an_object_that_gives_more_than_it_said_is_cut_at_the_bound(shelf: Shelf, tmp_path: Path) -> None:
    shelf.announced = 10
    config = CONFIG.model_copy(update={"max_bytes": 2 << 20})
    assert reason(tmp_path, config=config) == ("too_large", True)
    assert len(shelf.reads) == 3, "not a byte more than tells that there is more is read"
    shelf.announced, shelf.data = None, MP4[: 2 << 20]
    with local_file("s3://bucket/a.mp4", tmp_path, config) as found:
        assert found.size == 2 << 20


def test_a_read_that_fails_is_tried_again_and_one_without_descriptors_blames_no_video(
    shelf: Shelf, tmp_path: Path
) -> None:
    def fail(number: int) -> None:
        raise OSError("AWS Error SLOW_DOWN")

    def run_out(number: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    shelf.meddle = fail
    assert reason(tmp_path) == ("unreachable", False)
    shelf.meddle = run_out
    with pytest.raises(OSError, match="Too many open files"), local_file("s3://bucket/a.mp4", tmp_path, CONFIG):
        pass


def test_copies_that_a_killed_worker_left_are_swept_once_they_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("mealrec-video-old", "mealrec-video-young", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "video").touch()
        if name != "mealrec-video-young":
            os.utime(tmp_path / name, times=(time.time() - 86_400,) * 2)
    sweep_copies()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mealrec-video-young", "other"]
