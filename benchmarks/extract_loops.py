"""The loops that extraction is measured beside, each as a process: reads jobs as JSON lines, answers with frames done.

python benchmarks/extract_loops.py decord
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mealrec.features.allocation import keep_freed_memory

FRAMES, SIZE, RATE = 8, 224, 44_100
Loop = Callable[[dict[str, Any]], int]


def job(clip: Path) -> dict[str, Any]:
    """A clip and the frames wanted of it, so that every decoder is asked for the same ones."""
    import decord

    from mealrec.features.sampling import frame_indices

    reader = decord.VideoReader(str(clip), num_threads=1)
    stamps = reader.get_frame_timestamp(range(len(reader)))
    return {"path": str(clip), "indices": frame_indices(stamps[:, 0].tolist(), float(stamps[-1, 1]), FRAMES)}


def decord_loop() -> Loop:
    import decord

    def decode(job: dict[str, Any]) -> int:
        reader = decord.VideoReader(job["path"], width=SIZE, height=SIZE, num_threads=1)
        return len(reader.get_batch(job["indices"]).asnumpy())

    return decode


def pyav_loop() -> Loop:
    """In order through the file up to the last frame wanted."""
    import av

    def decode(job: dict[str, Any]) -> int:
        wanted, frames = set(job["indices"]), []
        with av.open(job["path"]) as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    frames.append(frame.to_ndarray(width=SIZE, height=SIZE, format="rgb24"))
                if number == job["indices"][-1]:
                    break
        return len(frames)

    return decode


def torchcodec_loop() -> Loop:
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def decode(job: dict[str, Any]) -> int:
        decoder = VideoDecoder(job["path"], num_ffmpeg_threads=1)
        found = decoder.get_frames_at(job["indices"]).data
        return len(torch.nn.functional.interpolate(found, (SIZE, SIZE), mode="nearest"))

    return decode


def audio_loop() -> Loop:
    import decord

    def decode(job: dict[str, Any]) -> int:
        return len(_sound(decord, job["path"], len(job["indices"])))

    return decode


def encode_loop() -> Loop:
    """Frames and sound of the wanted size, made from nothing: what the encoders alone take."""
    encoders = _encoders()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)

    def encode(job: dict[str, Any]) -> int:
        return len(encoders.visual.encode(frames[: len(job["indices"])]))

    return encode


def encode_kept_loop() -> Loop:
    keep_freed_memory()
    return encode_loop()


def bare_kept_loop() -> Loop:
    """The bare loop with the stage's own setting of the allocator: the rival that it is held to."""
    keep_freed_memory()
    return bare_loop()


def bare_loop() -> Loop:
    """What the stage has to do at least: open, choose frames, decode, read the sound, encode both. No child, no files."""
    import decord

    from mealrec.features.sampling import frame_indices

    encoders = _encoders()

    def both(job: dict[str, Any]) -> int:
        reader = decord.VideoReader(job["path"], width=SIZE, height=SIZE, num_threads=1)
        stamps = reader.get_frame_timestamp(range(len(reader)))
        frames = reader.get_batch(frame_indices(stamps[:, 0].tolist(), float(stamps[-1, 1]), FRAMES)).asnumpy()
        encoders.visual.encode(frames)
        sound = _sound(decord, job["path"], len(frames))
        if len(sound):
            encoders.audio.encode(sound)
        return len(frames)

    return both


def _encoders() -> Any:
    import torch

    from mealrec.config import FeaturesConfig
    from mealrec.features.encoders import build

    torch.set_num_threads(1)
    return build(FeaturesConfig(text="none"))


def _sound(decord: Any, path: str, windows: int) -> Any:
    from mealrec.features.encoders.audio import SAMPLES
    from mealrec.features.sampling import window_samples

    try:
        samples = decord.AudioReader(path, sample_rate=RATE, mono=True)[:].asnumpy()[0]
    except (RuntimeError, decord.DECORDError):
        return np.zeros((0, 1), np.float32)
    spans = window_samples(len(samples) / RATE, windows, RATE, SAMPLES)
    return np.stack([samples[max(a, 0) : max(a, 0) + b - a] for a, b in spans])


ALONE: dict[str, Callable[[], Loop]] = {
    "decode: decord": decord_loop,
    "decode: PyAV": pyav_loop,
    "decode: torchcodec": torchcodec_loop,
    "decode: decord, sound": audio_loop,
    "encode: EfficientNet-Lite0": encode_loop,
    "encode: EfficientNet-Lite0, freed memory kept": encode_kept_loop,
}
BARE: dict[str, Callable[[], Loop]] = {
    "bare decode + encode": bare_loop,
    "bare decode + encode, freed memory kept": bare_kept_loop,
}
LOOPS = ALONE | BARE


def environment(name: str) -> dict[str, str]:
    """torchcodec looks for a system's FFmpeg by its plain names; PyAV's wheel has one, under names of its own."""
    variables = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    if name == "decode: torchcodec":
        import av

        bundled = Path(av.__file__).parents[1] / "av.libs"
        links = Path(tempfile.mkdtemp(prefix="mealrec-ffmpeg-"))
        for library in bundled.glob("lib[as][vw]*.so.*"):
            plain, _, version = library.name.partition(".so.")
            (links / f"{plain.rpartition('-')[0]}.so.{version.partition('.')[0]}").symlink_to(library)
        variables["LD_LIBRARY_PATH"] = f"{links}:{bundled}:{variables.get('LD_LIBRARY_PATH', '')}"
    return variables


def main() -> None:
    loop = LOOPS[sys.argv[1]]()
    print("ready", flush=True)
    for line in sys.stdin:
        print(loop(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
