"""What a container declares, read by FFmpeg's newest demuxers (PyAV) before decord's old decoders see the file.

Runs in the decoder's child. Imports av alone. Cost: a few milliseconds; a rotated picture's first frame is decoded.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Disposition

# no playlist, no protocol but files: a name or a reference inside a file can't make FFmpeg open another one
OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,gif,mpegts,mpeg",
}
PADDING_S = 0.25  # what coders add or drop at the ends of a sound
FAILURES = (FFmpegError, OSError, ValueError, MemoryError)


class Rejected(Exception):
    """A file that is not decoded; reason is one of schema.VIDEO_REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Header:
    """Native size as shown, and what is declared: 0 frames or seconds where the container says nothing. seconds: of the
    pictures; longest: of whatever is in the file; audio_late: by which the sound starts behind the pictures, below 0 where it
    starts before them."""

    width: int
    height: int
    frames: int
    seconds: float
    longest: float
    audio_seconds: float
    audio_late: float


def read_header(path: str, request: dict[str, Any]) -> Header:
    """Raises Rejected for what can't be opened, has no picture, or declares more than the request's bounds."""
    try:
        with av.open(path, options=OPTIONS, metadata_errors="replace") as container:
            streams = container.streams
            if len(streams) > int(request["max_streams"]):
                raise Rejected("too_many_streams", f"{len(streams)}; features.max_streams is {request['max_streams']}")
            if not streams.video:
                raise Rejected("no_video_stream", "the container has no picture")
            known = [video for video in streams.video if video.codec_context is not None]
            if not known:
                raise Rejected("undecodable", "no decoder for its video codec")
            for video in known:
                _within(_declared_by(video, container), request)
            shown = _shown(known)
            found = _declared_by(shown, container)
            turned = "mov" in container.format.name and _is_turned(container, shown)
            return replace(found, width=found.height, height=found.width) if turned else found
    except FAILURES as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise  # no file's fault: it is tried again
        raise Rejected("unreadable", str(getattr(error, "strerror", None) or error)[:300]) from None


def _shown(streams: list[Any]) -> Any:
    """The stream that decord takes: of the highest bit rate that is declared, the first of equals; a cover is the last choice.
    A newer FFmpeg's own best one (PyAV's `best`) may be another, by a flag that decord's does not heed."""
    cover = Disposition.attached_pic
    return max(streams, key=lambda one: (not one.disposition & cover, one.bit_rate or 0))


def sound_stream(container: Any) -> Any:
    """The stream of sound that is heard, FFmpeg's own best one; None without one."""
    return container.streams.best("audio")


def _declared_by(video: Any, container: Any) -> Header:
    sound, whole = sound_stream(container), _whole(container)
    seconds = max(_seconds(video.duration, video.time_base), 0.0) or whole
    sounds = [_seconds(one.duration, one.time_base) for one in container.streams.audio]
    return Header(
        width=video.width,
        height=video.height,
        frames=max(video.frames, 0),
        seconds=seconds,
        longest=max(seconds, whole, *sounds),
        audio_seconds=_seconds(sound.duration, sound.time_base) if sound else 0.0,
        audio_late=_seconds(sound.start_time, sound.time_base) - _seconds(video.start_time, video.time_base)
        if sound
        else 0.0,
    )


def _whole(container: Any) -> float:
    """Seconds from the container's first moment to its last; Matroska says the last alone, which may count from 0."""
    start = (container.start_time or 0) if "matroska" in container.format.name else 0
    return max(((container.duration or 0) - max(start, 0)) / 1e6, 0.0)


def _within(found: Header, request: dict[str, Any]) -> None:
    if found.width * found.height > int(request["max_pixels"]):
        size = f"{found.width} x {found.height}"
        raise Rejected("too_many_pixels", f"{size}; features.max_pixels is {request['max_pixels']}")
    if found.longest - PADDING_S > float(request["max_seconds"]):
        raise Rejected("too_long", f"{found.longest:.0f} s; features.max_seconds is {request['max_seconds']:g}")
    if found.frames > int(request["max_frames"]):
        raise Rejected("too_many_frames", f"{found.frames}; features.max_frames is {request['max_frames']}")


def _seconds(duration: int | None, base: Any) -> float:
    return float(duration * base) if duration and base else 0.0


def _is_turned(container: Any, video: Any) -> bool:
    """Whether the picture is shown turned by a quarter: only a decoded frame tells. A broken one is decord's to judge."""
    video.thread_count = 1
    try:
        frame = next(container.decode(video), None)
    except FAILURES:
        return False
    return frame is not None and frame.rotation % 180 != 0
