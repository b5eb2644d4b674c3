"""The sound of a video, read by PyAV once and to its end: what the frames' windows take of it is kept, the rest is counted, so
that memory does not grow with its length. Runs in the decoder's child."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from mealrec.features.complaints import Complaints
from mealrec.features.header import FAILURES, OPTIONS, PADDING_S, Header, Rejected, sound_stream
from mealrec.features.sampling import window_samples

SHORT = 0.8  # of the video's duration; a shorter sound leaves windows empty, and silence would look like data
LOUDEST = 8.0  # full scale is 1; float sound may say 1e25, whose square is none

Samples = npt.NDArray[np.float32]


def read_sound(
    path: str,
    declared: Header,
    duration: float,
    windows: int,
    request: dict[str, Any],
    complaints: Complaints,
    warnings: list[str],
) -> tuple[Samples | None, str | None]:
    """Sound [windows, samples] in the middle of each frame's window; or None and why. Adds what is wrong with it to warnings.
    Raises Rejected where it goes on for more than the request's seconds."""
    rate, late = int(request["audio_rate"]), declared.audio_late
    if not rate:
        return None, "not_asked"
    spans = window_samples(duration, windows, rate, int(request["audio_samples"]))
    # the windows' times begin with the pictures, the sound with itself
    kept = _Windows(spans, round(late * rate))
    try:
        with av.open(path, options=OPTIONS, metadata_errors="replace") as container:
            complaints.first()  # opening it looks at the pictures too
            stream = sound_stream(container)
            if stream is None:
                return None, "no_audio_stream"
            for part in _parts(container, stream, rate, float(request["max_seconds"]) + PADDING_S):
                kept.take(part)
    except FAILURES:
        return None, "audio_undecodable"
    if complaint := complaints.first():
        warnings.append(f"broken sound: {complaint}")
    if kept.taken == 0:
        return None, "audio_undecodable"
    ends, expected = late + kept.taken / rate, max(duration, late + declared.audio_seconds)
    if ends < expected - PADDING_S:
        warnings.append(f"sound lasts {ends:.2f} s of {expected:.2f} s")
    if min(ends, duration) - max(late, 0) < SHORT * duration:
        return None, "audio_short"
    return np.clip(np.nan_to_num(kept.out), -LOUDEST, LOUDEST), None


class _Windows:
    """Silence [windows, samples], filled from parts of the sound that come in their order. begins: the first one's sample."""

    def __init__(self, spans: list[tuple[int, int]], begins: int) -> None:
        self.spans, self.at, self.taken = spans, begins, 0
        self.out = np.zeros((len(spans), spans[0][1] - spans[0][0]), dtype=np.float32)

    def take(self, part: Samples) -> None:
        until = self.at + len(part)
        for row, (start, end) in enumerate(self.spans):
            first, last = max(start, self.at), min(end, until)
            if first < last:
                self.out[row, first - start : last - start] = part[first - self.at : last - self.at]
        self.at, self.taken = until, self.taken + len(part)


def _parts(container: Any, stream: Any, rate: int, most_seconds: float) -> Iterator[Samples]:
    """Mono samples at `rate` as they decode. A broken packet is passed over, and a broken file ends there."""
    stream.thread_count = 1
    resampler, of, seconds = None, None, 0.0
    for frame in _frames(container, stream):
        seconds += frame.samples / frame.rate
        if seconds > most_seconds:
            raise Rejected("too_long", f"its sound goes on for more than {most_seconds:.0f} s")
        now = (frame.format.name, frame.layout.name, frame.rate)
        if resampler is None or now != of:  # a stream may change in its middle
            yield from _resampled(resampler, None)
            resampler, of = av.AudioResampler(format="fltp", layout="mono", rate=rate), now
        frame.pts = None  # a jump in time is no silence to be made up
        yield from _resampled(resampler, frame)
    yield from _resampled(resampler, None)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except FFmpegError:
            continue


def _resampled(resampler: av.AudioResampler | None, frame: Any) -> Iterator[Samples]:
    for done in resampler.resample(frame) if resampler is not None else ():
        yield done.to_ndarray()[0]
