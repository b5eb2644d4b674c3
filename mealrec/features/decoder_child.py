"""The decoder's child process: decord behind a pipe, with limits, ready to be killed.

decord may spin in native code for ever (its issues 373 and 375), crash on hostile files or return silence; none of that may
reach the pipeline. Requests are one JSON line on stdin; an answer is one JSON line and, after "ok", the raw bytes of the
frames and of the sound. Imports numpy, decord and the standard library alone, so it starts quickly.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

import decord
import numpy as np
from decord import DECORDError

from mealrec.features.sampling import frame_indices, window_samples

MEMORY_BYTES = 6 * 2**30
OPEN_FILES = 64
SHORT_AUDIO = 0.8  # of the video's duration


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code prints must not get between the answers
    _limit()
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


def decode(request: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """Header, frames uint8 [F, size, size, 3] (stretched to a square), sound float32 [F, samples] or None."""
    path, size = request["path"], int(request["size"])
    shape, declared = _look(path, request)
    try:
        reader = decord.VideoReader(path, width=size, height=size, num_threads=1)
        indices = frame_indices(declared, int(request["frames"]))
        frames = reader.get_batch(indices).asnumpy()
        stamps = reader.get_frame_timestamp(indices)
        duration = max(float(reader.get_frame_timestamp([declared - 1])[0][1]), 1e-3)
    except (RuntimeError, DECORDError, IndexError, MemoryError) as error:
        raise Rejected("undecodable", _first_line(error)) from None
    warnings = [] if len(frames) == len(indices) else [f"{len(indices)} frames asked, {len(frames)} decoded"]
    if np.any(np.diff(stamps[:, 0]) <= 0):
        warnings.append("frame times do not increase")
    sound, absent = _sound(path, duration, len(frames), request, warnings)
    header = {
        "ok": True,
        "frames": list(frames.shape),
        "times_ms": [round(float(t) * 1000) for t in stamps[:, 0]],
        "duration_ms": round(duration * 1000),
        "declared_frames": declared,
        "width": shape[1],
        "height": shape[0],
        "audio": None if sound is None else list(sound.shape),
        "audio_absent": absent,
        "warnings": warnings,
    }
    return header, frames, sound


def _look(path: str, request: dict[str, Any]) -> tuple[tuple[int, int], int]:
    """Native size and declared frame count, within the request's bounds."""
    try:
        reader = decord.VideoReader(path, num_threads=1)
        declared = len(reader)
        rate = float(reader.get_avg_fps())
    except (RuntimeError, DECORDError, MemoryError) as error:
        text = _first_line(error)
        if "video stream" in text.lower() or "stream_idx" in text.lower():
            raise Rejected("no_video_stream", text) from None
        raise Rejected("unreadable", text) from None
    if declared <= 0:
        raise Rejected("undecodable", "the container declares no frame")
    if rate > 0 and declared / rate > float(request["max_seconds"]):
        raise Rejected("too_long", f"{declared / rate:.0f} s; features.max_seconds is {request['max_seconds']:g}")
    try:
        height, width = reader[0].shape[:2]
    except (RuntimeError, DECORDError, IndexError, MemoryError) as error:
        raise Rejected("undecodable", _first_line(error)) from None
    if height * width > int(request["max_pixels"]):
        raise Rejected("too_many_pixels", f"{width} x {height}; features.max_pixels is {request['max_pixels']}")
    return (height, width), declared


def _sound(
    path: str, duration: float, windows: int, request: dict[str, Any], warnings: list[str]
) -> tuple[Any, str | None]:
    """Sound [windows, samples] in the middle of each frame's window; or None and why."""
    rate = int(request["audio_rate"])
    if not rate:
        return None, "not_asked"
    try:
        samples = decord.AudioReader(path, sample_rate=rate, mono=True)[:].asnumpy()[0]
    except (RuntimeError, DECORDError, MemoryError, IndexError) as error:
        absent = "no_audio_stream" if "audio stream" in str(error).lower() else "audio_undecodable"
        return None, absent
    if len(samples) == 0:
        return None, "audio_undecodable"
    if len(samples) < SHORT_AUDIO * duration * rate:
        warnings.append(f"sound lasts {len(samples) / rate:.2f} s of {duration:.2f} s")
    spans = window_samples(duration, windows, rate, int(request["audio_samples"]))
    out = np.zeros((windows, spans[0][1] - spans[0][0]), dtype=np.float32)
    for row, (start, end) in enumerate(spans):
        part = samples[max(start, 0) : end]
        out[row, : len(part)] = part
    return np.nan_to_num(out), None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    main()
