"""The decoder's child process: decord behind a pipe, with limits, ready to be killed.

decord may spin in native code for ever (its issues 373 and 375), crash on hostile files or return silence; none of that may
reach the pipeline. The child says READY once, when its imports are done and it is confined. Requests are one JSON line on
stdin; an answer is one JSON line and, after "ok", the raw bytes of the frames and of the sound. Imports numpy, decord, av
and the standard library alone, so it starts quickly.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import av.logging
import decord
import numpy as np
import numpy.typing as npt
from decord import DECORDError

from mealrec.features.complaints import Complaints
from mealrec.features.confinement import confine
from mealrec.features.header import Header, Rejected, read_header
from mealrec.features.identity import change_since
from mealrec.features.sampling import frame_indices
from mealrec.features.sound import read_sound

SHORT_PICTURES = 0.8  # of the declared duration
READY = b"ready\n"
NO_DECODER = "(-1128613112 vs."  # FFmpeg's AVERROR_DECODER_NOT_FOUND in decord's message: AV1, for one
NATIVE_PREFIX = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
FAILURES = (RuntimeError, DECORDError, IndexError, MemoryError)  # what decord raises on broken files


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever native code prints must not get between the answers
    confine()
    complaints = Complaints()
    av.logging.restore_default_callback()  # PyAV keeps to itself what FFmpeg says
    av.logging.set_libav_level(av.logging.ERROR)
    try:
        answers.write(READY)
        answers.flush()
        for line in sys.stdin.buffer:
            _answer(json.loads(line), answers, complaints)
    finally:
        complaints.give_back()  # whoever runs this by hand sees the traceback


def _answer(request: dict[str, Any], answers: BinaryIO, complaints: Complaints) -> None:
    try:
        header, frames, sound = decode(request, complaints)
    except Rejected as rejected:
        header, frames, sound = {"ok": False, "reason": rejected.reason, "detail": rejected.detail}, None, None
    answers.write(json.dumps(header).encode() + b"\n")
    for part in (frames, sound):
        if part is not None:
            answers.write(part.tobytes())
    answers.flush()


@dataclass(frozen=True)
class Pictures:
    """A reader of scaled frames and, for every frame that is really in the file, when it comes on and goes off (seconds)."""

    reader: Any
    stamps: npt.NDArray[np.float64]

    @property
    def seconds(self) -> float:
        return max(float(self.stamps[-1, 1]), 1e-3)


def decode(request: dict[str, Any], complaints: Complaints) -> tuple[dict[str, Any], Any, Any]:
    """Answer, frames uint8 [F, size, size, 3] (stretched to a square), sound float32 [F, samples] or None."""
    path = request["path"]
    if request.get("identity") and (change := change_since(request["identity"], Path(path))) is not None:
        raise Rejected("changed_while_read", change)  # no old decoder sees what nobody has looked at
    declared = read_header(path, request)
    complaints.first()
    pictures = _open(path, request)
    indices = frame_indices(pictures.stamps[:, 0].tolist(), pictures.seconds, int(request["frames"]))
    try:
        frames = pictures.reader.get_batch(indices).asnumpy()
    except FAILURES as error:
        raise Rejected("undecodable", _first_line(error)) from None
    warnings = _compared(declared, pictures, len(indices), len(frames), complaints)
    sound, absent = read_sound(path, declared, pictures.seconds, len(frames), request, complaints, warnings)
    answer = {
        "ok": True,
        "frames": list(frames.shape),
        "times_ms": [round(1000 * t) for t in pictures.stamps[indices, 0][: len(frames)].tolist()],
        "duration_ms": round(pictures.seconds * 1000),
        "declared_frames": declared.frames,
        "width": declared.width,
        "height": declared.height,
        "audio": None if sound is None else list(sound.shape),
        "audio_absent": absent,
        "warnings": warnings,
    }
    return answer, frames, sound


def _open(path: str, request: dict[str, Any]) -> Pictures:
    """Raises Rejected for what decord can't open, and for what is beyond the request's bounds though its header was not."""
    size = int(request["size"])
    try:
        reader = decord.VideoReader(path, width=size, height=size, num_threads=1)
        found = len(reader)
        if found > int(request["max_frames"]):
            raise Rejected("too_many_frames", f"{found}; features.max_frames is {request['max_frames']}")
        stamps = reader.get_frame_timestamp(range(found)) if found > 0 else np.zeros((0, 2))
    except FAILURES as error:
        if NO_DECODER in str(error):
            raise Rejected("undecodable", "no decoder for its video codec") from None
        reason = "no_video_stream" if "cannot find video stream" in str(error) else "unreadable"
        raise Rejected(reason, _first_line(error)) from None
    if found <= 0:
        raise Rejected("undecodable", "there is no frame in the file")
    if not np.isfinite(stamps).all():
        raise Rejected("undecodable", "the container gives frames no time")
    if stamps.max() > float(request["max_seconds"]):
        raise Rejected("too_long", f"{stamps.max():.0f} s; features.max_seconds is {request['max_seconds']:g}")
    return Pictures(reader, np.asarray(stamps, dtype=np.float64))


def _compared(declared: Header, found: Pictures, asked: int, decoded: int, complaints: Complaints) -> list[str]:
    """In words, where what the container declares, what is in the file and what was decoded differ."""
    warnings = [] if decoded == asked else [f"{asked} frames asked, {decoded} decoded"]
    if len(found.stamps) < declared.frames:
        warnings.append(f"the container declares {declared.frames} frames, {len(found.stamps)} are in the file")
    if found.seconds < SHORT_PICTURES * declared.seconds:
        warnings.append(f"the container declares {declared.seconds:.2f} s, its pictures end at {found.seconds:.2f} s")
    if np.any(np.diff(found.stamps[:, 0]) <= 0):
        warnings.append("frame times do not increase")
    if complaint := complaints.first():
        warnings.append(f"broken pictures: {complaint}")
    return warnings


def _first_line(error: BaseException) -> str:
    """Without the clock times and source lines that native code puts in: the same file, the same words."""
    lines = [line.strip() for line in NATIVE_PREFIX.sub("", str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    main()
