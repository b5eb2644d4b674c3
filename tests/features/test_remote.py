"""Videos in an object store that answers for some of them alone; a small HTTP server is the store."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow.fs as pafs
import pytest

from mealrec.config import FeaturesConfig
from mealrec.features.probe import VideoRejected
from mealrec.features.remote import _object, _store, local_file, remote_stats

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
    assert sorted(remote_stats(uris)) == [uris[0], uris[3]]
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
