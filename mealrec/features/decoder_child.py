"""The decoder's child process: decord behind a pipe, with limits, ready to be killed.

decord may spin in native code for ever (its issues 373 and 375), crash on hostile files or return silence; none of that may
reach the pipeline. The child says READY once, when its imports are done and its limits set. Requests are one JSON line on
stdin; an answer is one JSON line and, after "ok", the raw bytes of the frames and of the sound. Imports numpy, decord and
the standard library alone, so it starts quickly.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import decord
import numpy as np
import numpy.typing as npt
from decord import DECORDError

from mealrec.features.sampling import frame_indices, window_samples

MEMORY_BYTES = 6 * 2**30
OPEN_FILES = 64
SHORT_AUDIO = 0.8  # of the video's duration; a shorter sound leaves windows empty, and silence would look like data
READY = b"ready\n"
NO_DECODER = "(-1128613112 vs."  # FFmpeg's AVERROR_DECODER_NOT_FOUND in decord's message: AV1, for one
NATIVE_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
FAILURES = (RuntimeError, DECORDError, IndexError, MemoryError)  # what decord raises on broken files


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code prints must not get between the answers
    _limit()
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        _answer(json.loads(line), answers)


def _limit() -> None:
    """Die with the parent, write no files, open few, and fail on memory instead of taking the machine's."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))


def _answer(request: dict[str, Any], answers: BinaryIO) -> None:
    try:
        header, frames, sound = decode(request)
    except Rejected as rejected:
        header, frames, sound = {"ok": False, "reason": rejected.reason, "detail": rejected.detail}, None, None
    answers.write(json.dumps(header).encode() + b"\n")
    for part in (frames, sound):
        if part is not None:
            answers.write(part.tobytes())
    answers.flush()


class Rejected(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Look:
    """What the container says: native size and, for every frame, when it comes on and when it goes off (seconds)."""

    height: int
    width: int
    stamps: npt.NDArray[np.float64]

    @property
    def seconds(self) -> float:
        return max(float(self.stamps[-1, 1]), 1e-3)


def decode(request: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """Header, frames uint8 [F, size, size, 3] (stretched to a square), sound float32 [F, samples] or None."""
    path, size = request["path"], int(request["size"])
    look = _look(path, request)
    indices = frame_indices(look.stamps[:, 0].tolist(), look.seconds, int(request["frames"]))
    try:
        reader = decord.VideoReader(path, width=size, height=size, num_threads=1)
        frames = reader.get_batch(indices).asnumpy()
    except FAILURES as error:
        raise Rejected("undecodable", _first_line(error)) from None
    warnings = [] if len(frames) == len(indices) else [f"{len(indices)} frames asked, {len(frames)} decoded"]
    if np.any(np.diff(look.stamps[:, 0]) <= 0):
        warnings.append("frame times do not increase")
    sound, absent = _sound(path, look.seconds, len(frames), request, warnings)
    header = {
        "ok": True,
        "frames": list(frames.shape),
        "times_ms": [round(1000 * t) for t in look.stamps[indices, 0][: len(frames)].tolist()],
        "duration_ms": round(look.seconds * 1000),
        "declared_frames": len(look.stamps),
        "width": look.width,
        "height": look.height,
        "audio": None if sound is None else list(sound.shape),
        "audio_absent": absent,
        "warnings": warnings,
    }
    return header, frames, sound


def _look(path: str, request: dict[str, Any]) -> Look:
    """Raises Rejected for what can't be opened, has no picture or is beyond the request's bounds."""
    try:
        reader = decord.VideoReader(path, num_threads=1)
        declared = len(reader)
        stamps = reader.get_frame_timestamp(range(declared)) if declared > 0 else np.zeros((0, 2))
    except FAILURES as error:
        if NO_DECODER in str(error):
            raise Rejected("undecodable", "no decoder for its video codec") from None
        reason = "no_video_stream" if "cannot find video stream" in str(error) else "unreadable"
        raise Rejected(reason, _first_line(error)) from None
    if declared <= 0:
        raise Rejected("undecodable", "the container declares no frame")
    if not np.isfinite(stamps).all():
        raise Rejected("undecodable", "the container gives frames no time")
    if stamps.max() > float(request["max_seconds"]):
        raise Rejected("too_long", f"{stamps.max():.0f} s; features.max_seconds is {request['max_seconds']:g}")
    try:
        height, width = reader[0].shape[:2]
    except FAILURES as error:
        raise Rejected("undecodable", _first_line(error)) from None
    if height * width > int(request["max_pixels"]):
        raise Rejected("too_many_pixels", f"{width} x {height}; features.max_pixels is {request['max_pixels']}")
    return Look(height, width, np.asarray(stamps, dtype=np.float64))


def _sound(
    path: str, duration: float, windows: int, request: dict[str, Any], warnings: list[str]
) -> tuple[Any, str | None]:
    """Sound [windows, samples] in the middle of each frame's window; or None and why."""
    rate = int(request["audio_rate"])
    if not rate:
        return None, "not_asked"
    try:
        samples = decord.AudioReader(path, sample_rate=rate, mono=True)[:].asnumpy()[0]
    except FAILURES as error:
        absent = "no_audio_stream" if "audio stream" in str(error).lower() else "audio_undecodable"
        return None, absent
    if len(samples) == 0:
        return None, "audio_undecodable"
    if len(samples) < SHORT_AUDIO * duration * rate:
        warnings.append(f"sound lasts {len(samples) / rate:.2f} s of {duration:.2f} s")
        return None, "audio_short"
    spans = window_samples(duration, windows, rate, int(request["audio_samples"]))
    out = np.zeros((windows, spans[0][1] - spans[0][0]), dtype=np.float32)
    for row, (start, end) in enumerate(spans):
        part = samples[max(start, 0) : end]
        out[row, : len(part)] = part
    return np.nan_to_num(out), None


def _first_line(error: BaseException) -> str:
    """Without the clock times and source lines that native code puts in: the same file, the same words."""
    lines = [line.strip() for line in NATIVE_PREFIX.sub("", str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    main()
