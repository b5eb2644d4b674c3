"""Look at a file before anything decodes it: where it lies, how large it is, what container its first bytes name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mealrec.config import FeaturesConfig
from mealrec.features.identity import expect_files_fault, identity_of, open_regular
from mealrec.schema import VIDEO_REASONS


class VideoRejected(Exception):
    """A video that ends in quarantine; reason is one of schema.VIDEO_REASONS, detail says it in words. lasting: it would be
    rejected again as it is, so that nobody has to try."""

    def __init__(self, reason: str, detail: str, *, lasting: bool = True) -> None:
        assert reason in VIDEO_REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.lasting = reason, detail, lasting


@dataclass(frozen=True)
class Probe:
    """A file that may be given to the decoder, as long as it is the same one (identity.identity_of)."""

    path: Path
    container: str
    size: int
    identity: list[int]


def probe(uri: str, root: Path, config: FeaturesConfig) -> Probe:
    """Raises VideoRejected, and OSError for what is no video's fault. What is named below root must lie there, symbolic links
    included; absolute paths elsewhere are the catalogue's own word. Reads the first bytes only."""
    try:
        path = _local_path(uri, root)
        if not path.is_file():
            raise VideoRejected("missing_file", f"{uri} does not exist or is no regular file")
        with open_regular(path) as file:
            found = os.fstat(file.fileno())
            container = container_of(file.read(512))
        size = found.st_size
        if size == 0:
            raise VideoRejected("empty_file", f"{uri} has 0 bytes")
        if size > config.max_bytes:
            raise VideoRejected("too_large", f"{size} bytes; features.max_bytes is {config.max_bytes}")
    except PermissionError as error:
        raise VideoRejected("unreadable", f"{uri}: {error.strerror}", lasting=False) from None
    except (OSError, ValueError) as error:  # a name too long for the file system, or with a null byte in it
        if isinstance(error, OSError):
            expect_files_fault(error)
        raise VideoRejected("missing_file", f"{uri[:200]!r}: {error}") from None
    if container is None:
        raise VideoRejected("not_a_video", "the first bytes are of no known video container")
    return Probe(path, container, size, identity_of(found))


def container_of(head: bytes) -> str | None:
    """Name of the container that the first bytes announce, None when it is none that we know."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
        return "mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:11] == b"AVI":
        return "avi"
    if head.startswith(b"FLV"):
        return "flv"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if len(head) > 188 and head[0] == 0x47 and head[188] == 0x47:
        return "mpegts"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpegps"
    return None


def _local_path(uri: str, root: Path) -> Path:
    if "://" in uri:
        scheme, _, rest = uri.partition("://")
        if scheme != "file":
            raise VideoRejected("uri_not_allowed", f"scheme {scheme!r}; allowed: a path or file://")
        if not rest.startswith("/"):
            raise VideoRejected("uri_not_allowed", f"{uri}: write file:///absolute/path")
        uri = unquote(rest)
    path = root / uri  # an absolute path stays as it is
    below = not Path(uri).is_absolute() or path.is_relative_to(root)
    try:
        leaves = below and not path.resolve().is_relative_to(root.resolve())
    except RuntimeError:  # Python up to 3.12
        raise VideoRejected("missing_file", f"{uri}: its symbolic links go round in a circle") from None
    if leaves:
        raise VideoRejected("uri_not_allowed", f"{uri} leaves {root}")
    return path
