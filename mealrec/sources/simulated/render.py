"""Render a planned video to a real mp4 (H.264 + AAC), broken ones in their own ways. Same plan, same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from mealrec.sources.simulated.clips import clip_frames, clip_of
from mealrec.sources.simulated.draw import HEIGHT, WIDTH, background_picture, topic_picture
from mealrec.sources.simulated.sound import RATE, soundtrack
from mealrec.sources.simulated.streams import Purpose, stream
from mealrec.sources.simulated.world import VideoPlan

FPS = 12
AUDIO_FRAME = 1024


def render(plan: VideoPlan, seed: int, path: Path, clips: list[Path]) -> None:
    """Write the file by rename. A `missing_file` is not written, an `empty_file` is empty, `not_a_video` is noise, and
    `unreadable` ends before its index (the moov box lies at the end)."""
    if plan.fault == "missing_file":
        return
    temporary = path.with_suffix(".part.mp4")
    if plan.fault == "empty_file":
        temporary.touch()
    elif plan.fault == "not_a_video":
        temporary.write_bytes(stream(seed, Purpose.FAULT, plan.number).bytes(20_000))
    else:
        _encode(plan, seed, temporary, clips)
        if plan.fault == "unreadable":
            whole = temporary.read_bytes()
            temporary.write_bytes(whole[: len(whole) // 2])
    temporary.rename(path)


def _encode(plan: VideoPlan, seed: int, path: Path, clips: list[Path]) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "28", "threads": "1"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono") if plan.has_sound else None
        for picture in _pictures(plan, seed, clips):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(video.encode())
        if audio is not None:
            samples = soundtrack(plan, seed)
            for start in range(0, len(samples), AUDIO_FRAME):
                frame = av.AudioFrame.from_ndarray(samples[None, start : start + AUDIO_FRAME], "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
                container.mux(audio.encode(frame))
            container.mux(audio.encode())


def _pictures(plan: VideoPlan, seed: int, clips: list[Path]) -> Iterator[npt.NDArray[np.uint8]]:
    style = stream(seed, Purpose.PIXELS, plan.number).random(4)
    cut = clip_frames(clip_of(plan, clips)) if clips else None
    still = background_picture(plan.background)
    shown = 0
    for number in range(plan.duration_ms * FPS // 1000):
        ms = number * 1000 / FPS
        if not any(start <= ms < end for start, end in plan.segments_ms):
            yield still
        elif cut is not None:
            yield cut[shown % len(cut)]
            shown += 1
        else:
            yield topic_picture(plan.topic, ms / 1000, style)
