"""Tiny real videos, rendered once a test run, and files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mealrec.config import FeaturesConfig, RayConfig, RunConfig, SourceConfig

FPS, RATE = 12, 44_100
WIDTH, HEIGHT = 96, 64


def render(
    path: Path,
    *,
    frames: int = 24,
    sound_s: float = 0.0,
    starts_ms: list[int] | None = None,
    noise: bool = False,
    tags: dict[str, str] | None = None,
    codec: str = "aac",
    silent: bool = False,
) -> Path:
    """Frame i is flat grey of level 10 + 8 i, so that a test can tell which frames it was given; with noise, pictures that take
    some bytes, behind the header. codec: of the sound, a tone, or silence."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"} if noise else {}) as container:
        container.metadata.update(tags or {})
        video = container.add_stream("libx264", rate=FPS, options={"qp": "8", "g": "6"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if starts_ms is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream(codec, rate=RATE, layout="mono") if sound_s else None
        for i in range(frames):
            picture = np.full((HEIGHT, WIDTH, 3), 10 + 8 * i, np.uint8)
            if noise:
                picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if starts_ms is not None:
                frame.pts, frame.time_base = starts_ms[i], Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            wave = (not silent) * 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(sound_s * RATE)) / RATE)
            sound = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), format="fltp", layout="mono")
            sound.rate, sound.pts = RATE, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sound, silent, short_sound and nearly_all_sound.mp4 (2 s each), one_frame, vfr, audio_only, text and zero.mp4; cut (its
    header is lost), torn (18 of 24 frames) and holed (pictures overwritten)."""
    folder = tmp_path_factory.mktemp("clips")
    render(folder / "sound.mp4", sound_s=2.0)
    render(folder / "silent.mp4")
    render(folder / "short_sound.mp4", sound_s=0.5)
    render(folder / "nearly_all_sound.mp4", sound_s=1.7)
    render(folder / "one_frame.mp4", frames=1)
    # twelve frames in the first 240 ms, twelve in the 3.6 s after
    render(folder / "vfr.mp4", starts_ms=[20 * i for i in range(12)] + [240 + 300 * i for i in range(12)])
    whole = (folder / "sound.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    detailed = render(folder / "detailed.mp4", noise=True).read_bytes()
    with av.open(str(folder / "detailed.mp4")) as container:
        packets = [packet for packet in container.demux() if packet.pos is not None]
    end = packets[17].pos + packets[17].size
    (folder / "torn.mp4").write_bytes(detailed[:end])
    holed = bytearray(detailed)
    for packet in packets[1:]:
        middle = packet.pos + packet.size // 2
        holed[middle : middle + 40] = bytes(range(40))
    (folder / "holed.mp4").write_bytes(holed)
    with av.open(str(folder / "audio_only.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.float32), format="fltp", layout="mono")
        sound.rate, sound.pts = RATE, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    (folder / "text.mp4").write_text("this is no video")
    (folder / "zero.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def make_landing(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes a landing folder with these catalogue rows; called again, it replaces the catalogue."""

    def make(rows: list[dict[str, Any]]) -> Path:
        root = tmp_path / "landing"
        (root / "videos").mkdir(parents=True, exist_ok=True)
        (root / "catalogue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return root

    return make


@pytest.fixture
def run_config(tmp_path: Path) -> RunConfig:
    """Two small frames a video, pictures alone: an actor starts in seconds."""
    return RunConfig(
        lake=str(tmp_path / "a läke"),  # a space and an accent must do no harm
        source=SourceConfig(kind="landing", directory=str(tmp_path / "landing")),
        features=FeaturesConfig(
            frames=2, frame_size=64, audio="none", text="none", actors=1, batch_videos=2, buckets=2
        ),
        ray=RayConfig(num_cpus=2, object_store_mb=80),
    )
