"""Small files that unpack to a great deal: refused by their headers, and held by the child's memory limit where those lie."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from mealrec.config import FeaturesConfig
from mealrec.features.decoder import CHILD, Decoder
from mealrec.features.probe import VideoRejected

pytestmark = pytest.mark.media

SIDE = 6000
SMALL_MEMORY = (
    "import resource\n"
    "from mealrec.features import confinement, decoder_child\n"
    "now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    "confinement.LIMITS[resource.RLIMIT_AS] = now + 40 * 2**20\n"
    "decoder_child.main()\n"
)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two grey pictures of 36 million pixels, 54 MB each as they are decoded."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"preset": "ultrafast", "qp": "40"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((SIDE * 3 // 2, SIDE), 128, np.uint8), format="yuv420p")
        for packet in (*stream.encode(picture), *stream.encode()):
            container.mux(packet)
    assert path.stat().st_size < 300_000
    return path


def ends(config: FeaturesConfig, bomb: Path, clips: Path, command: list[str]) -> str:
    """What the bomb ends in; a usual video decodes right afterwards."""
    with Decoder(config, audio_rate=0, audio_samples=0, command=command) as decoder:
        with pytest.raises(VideoRejected) as caught:
            decoder.decode(bomb)
        assert len(decoder.decode(clips / "silent.mp4").frames) == 2
    return caught.value.reason


def test_a_picture_with_too_many_pixels_is_refused_by_its_header(bomb: Path, clips: Path) -> None:
    assert ends(FeaturesConfig(frames=2, frame_size=32), bomb, clips, list(CHILD)) == "too_many_pixels"


def test_what_takes_more_memory_than_the_child_may_have_costs_its_video_alone(bomb: Path, clips: Path) -> None:
    allowing = FeaturesConfig(frames=2, frame_size=32, max_pixels=10**9)
    reason = ends(allowing, bomb, clips, [sys.executable, "-c", SMALL_MEMORY])
    assert reason in ("unreadable", "undecodable", "decoder_crashed")
    with Decoder(allowing, audio_rate=0, audio_samples=0) as decoder:
        assert len(decoder.decode(bomb).frames) == 1, "with the usual limit it can be decoded"
