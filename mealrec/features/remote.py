"""Videos in an object store: their sizes and times, and a copy of one, bounded in bytes, for as long as it is decoded.

Arrow's file systems read them, with the credentials of the environment alone, and try again by themselves where a store answers
late. Cost: a worker's disk holds one video at a time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from mealrec import full_disk
from mealrec.config import FeaturesConfig
from mealrec.features.identity import expect_files_fault
from mealrec.features.probe import Probe, VideoRejected, probe

CHUNK = 1 << 20
COPY = "mealrec-video-"  # what the names of the folders of copies begin with
LEFT_S = 6 * 3600.0  # of this age, whoever made it is no longer at work
NOT_ASKED = "?"  # in place of an object's size and time: its store answers, but not for this one
NO_BUCKET = "' not found"  # in Arrow's message for a bucket that is nowhere
AT_ONCE = 1000  # objects a listing call asks for
ALONE_AT_ONCE = 32  # where one of them has failed: a store that is away has to be noticed soon


def is_remote(uri: str | None, config: FeaturesConfig) -> bool:
    return bool(uri) and str(uri).partition("://")[0] in config.url_schemes and "://" in str(uri)


def sweep_copies() -> None:
    """Copies that killed workers left in this machine's temporary folder."""
    for left in Path(tempfile.gettempdir()).glob(f"{COPY}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left)


@contextmanager
def local_file(uri: str, root: Path, config: FeaturesConfig) -> Iterator[Probe]:
    """A probed file: the catalogue's own, or a copy of the object that goes when the block ends. Raises VideoRejected."""
    if not is_remote(uri, config):
        yield probe(uri, root, config)
        return
    with tempfile.TemporaryDirectory(prefix=COPY) as folder:
        copy = Path(folder) / "video"
        _copy(uri, copy, config.max_bytes)
        yield probe(copy.name, copy.parent, config)


def remote_stats(uris: Iterable[str]) -> dict[str, str]:
    """size:mtime_ns of each object that is there, NOT_ASKED for one that alone can't be asked for. Cost: one request an object,
    many at a time. Raises OSError where a store can't be asked; what is no proper uri is left out, and rejected when its turn
    comes."""
    stores: dict[int, tuple[pafs.FileSystem, list[tuple[str, str]]]] = {}
    for uri in uris:
        try:
            filesystem, path = _object(uri)
        except VideoRejected:
            continue
        stores.setdefault(id(filesystem), (filesystem, []))[1].append((uri, path))
    found = {}
    for filesystem, objects in stores.values():
        answered = False
        for start in range(0, len(objects), AT_ONCE):
            uris_now, paths = zip(*objects[start : start + AT_ONCE], strict=True)
            for uri, info in zip(uris_now, _infos(filesystem, list(paths), answered), strict=True):
                answered = answered or isinstance(info, pafs.FileInfo)
                if isinstance(info, OSError):
                    found[uri] = NOT_ASKED
                elif isinstance(info, pafs.FileInfo) and info.type == pafs.FileType.File:
                    found[uri] = f"{info.size}:{info.mtime_ns or 0}"
    return found


def _infos(filesystem: pafs.FileSystem, paths: list[str], answered: bool) -> list[pafs.FileInfo | Exception]:
    """Of all at once or, where that fails, of each alone, with its error for those that fail. Raises OSError where the store
    has not answered before and answers for none of these either."""
    try:
        return list(filesystem.get_file_info(paths))
    except (OSError, pa.ArrowException):
        with ThreadPoolExecutor(ALONE_AT_ONCE) as pool:
            alone = list(pool.map(lambda path: _info_or_error(filesystem, path), paths))
    failures = [one for one in alone if isinstance(one, OSError)]
    if failures and not answered and not any(isinstance(one, pafs.FileInfo) for one in alone):
        raise failures[0]
    return alone


def _info_or_error(filesystem: pafs.FileSystem, path: str) -> pafs.FileInfo | Exception:
    try:
        return filesystem.get_file_info(path)
    except (OSError, pa.ArrowException) as error:
        return error


def _copy(uri: str, to: Path, max_bytes: int) -> None:
    """Raises VideoRejected, and OSError where this machine has no room for it, or no descriptor: no video's fault."""
    try:
        filesystem, path = _object(uri)
        info = filesystem.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise VideoRejected("missing_file", f"{uri} does not exist")
        if info.size > max_bytes:
            raise VideoRejected("too_large", f"{info.size} bytes; features.max_bytes is {max_bytes}")
        with filesystem.open_input_file(path) as source, to.open("wb") as out:
            before, left = _version(info, source), max_bytes  # whatever the store said of its size
            while part := source.read(min(CHUNK, left + 1)):
                left -= len(part)
                if left < 0:
                    raise VideoRejected("too_large", f"more bytes than features.max_bytes={max_bytes}")
                out.write(part)
        with filesystem.open_input_file(path) as again:  # its parts came one by one, of whatever lay there then
            after = _version(filesystem.get_file_info(path), again)
    except FileNotFoundError:
        raise VideoRejected("missing_file", f"{uri} went away", lasting=False) from None
    except pa.ArrowInvalid as error:
        raise VideoRejected("uri_not_allowed", f"{uri}: {str(error).splitlines()[0][:200]}") from None
    except (OSError, pa.ArrowException) as error:
        if full := full_disk.told(error, str(to)):
            raise OSError(full) from error
        if isinstance(error, OSError):
            expect_files_fault(error)
        raise VideoRejected("unreachable", f"{uri}: {str(error).splitlines()[0][:200]}", lasting=False) from None
    if (read := to.stat().st_size) != info.size:
        raise VideoRejected("changed_while_read", f"{info.size} bytes before, {read} read", lasting=False)
    if after != before:
        raise VideoRejected("changed_while_read", f"it was {before}, then {after}", lasting=False)


def _version(info: pafs.FileInfo, source: pa.NativeFile) -> str:
    """What tells an object from another in its place: size, time and, as many know seconds alone, its ETag where it has one."""
    tag = source.metadata().get("ETag", b"")
    return f"{info.size}:{info.mtime_ns or 0}:{tag.decode(errors='replace')}"


def _object(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow file system and path. Raises VideoRejected for a uri that carries more than a place: options could send a worker,
    and the credentials that it has, to any server. Raises OSError as _store does."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise VideoRejected("uri_not_allowed", f"{uri[:200]!r}: {error}") from None
    if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc or parts.query or parts.fragment:
        raise VideoRejected("uri_not_allowed", "write scheme://bucket/key, with ?, # and % in the key percent-encoded")
    filesystem, bucket = _store(f"{parts.scheme}://{parts.netloc}")
    key = unquote(parts.path)
    return filesystem, f"{bucket}{key}" if bucket else key.lstrip("/")  # abfs has its container in the path


@lru_cache(maxsize=64)
def _store(bucket: str) -> tuple[pafs.FileSystem, str]:
    """Raises OSError where it can't be asked what it is (S3 has to tell a bucket's region), and VideoRejected where there is no
    such bucket."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(bucket)
    except OSError as error:
        if NO_BUCKET in str(error):
            raise VideoRejected("missing_file", str(error).splitlines()[0][:200]) from None
        raise
    except (ValueError, pa.ArrowException) as error:
        raise VideoRejected("uri_not_allowed", f"{bucket}: {str(error).splitlines()[0][:200]}") from None
    return filesystem, str(path).rstrip("/")
