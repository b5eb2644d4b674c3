"""Decoding in a child that may be killed."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from mealrec.config import FeaturesConfig
from mealrec.features import decoder as decoder_module
from mealrec.features import decoder_child
from mealrec.features.decoder import Decoded, Decoder, DecoderError
from mealrec.features.encoders import build
from mealrec.features.header import Header, Rejected, read_header
from mealrec.features.probe import VideoRejected
from mealrec.features.rows import decoder_for
from tests.features.conftest import RATE, render

pytestmark = pytest.mark.media

CONFIG = FeaturesConfig(frames=4, frame_size=32)
HEAR = "import sys, time, os, signal, json\nprint('ready', flush=True)\nline = sys.stdin.readline()\n"
# sleeps through SIGTERM; holds the GIL in native code (a catastrophic regular expression), as decord may
DEAF = HEAR + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
SPINNING = HEAR + "import re\nre.match(r'(a|a)+$', 'a' * 60 + 'b')"
CRASHING = HEAR + "os.kill(os.getpid(), signal.SIGSEGV)"
BABBLING = HEAR + "print('no JSON', flush=True)\ntime.sleep(60)"
BOASTING = HEAR + (
    "print(json.dumps({'ok': True, 'frames': [4, 10**6, 10**6, 3], 'times_ms': [1, 2, 3, 4]}), flush=True)\ntime.sleep(60)"
)


def stub(program: str, deadline: float = 30.0) -> Decoder:
    config = CONFIG.model_copy(update={"decode_deadline_s": deadline})
    return Decoder(config, audio_rate=0, audio_samples=0, command=[sys.executable, "-c", program])


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(CONFIG, audio_rate=RATE, audio_samples=20_000) as one:
        yield one


def levels(decoded: Decoded) -> list[int]:
    """The grey levels of the frames as the numbers that the renderer gave them."""
    return [round((float(frame.mean()) - 10) / 8) for frame in decoded.frames]


def rejection(decoder: Decoder, path: Path) -> VideoRejected:
    with pytest.raises(VideoRejected) as caught:
        decoder.decode(path)
    return caught.value


def test_the_frames_are_those_that_were_asked_for_with_their_times(decoder: Decoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "sound.mp4")
    assert decoded.frames.shape == (4, 32, 32, 3)
    assert levels(decoded) == [3, 9, 15, 21]  # middles of four windows of six frames
    assert decoded.times_ms == [250, 750, 1250, 1750]
    assert (decoded.duration_ms, decoded.declared_frames) == (2000, 24)
    assert (decoded.width, decoded.height) == (96, 64)
    assert decoded.warnings == []


def killed_first(counter: Path, kills: int, before: str) -> str:
    """A program that so many times does what `before` says and is killed, and then is the real child."""
    counter.write_bytes(b"")
    return (
        "import os, signal, sys\n"
        f"if os.path.getsize({str(counter)!r}) >= {kills}:\n"
        "    os.execv(sys.executable, [sys.executable, '-m', 'mealrec.features.decoder_child'])\n"
        f"open({str(counter)!r}, 'ab').write(b'x')\n"
        f"{before}os.kill(os.getpid(), signal.SIGKILL)"
    )


@pytest.mark.parametrize("kills", [1, 2])
def test_one_killed_child_does_not_condemn_a_video_but_two_do(clips: Path, tmp_path: Path, kills: int) -> None:
    """The first children are killed as a system short of memory kills; the next one is the real one."""
    program = killed_first(tmp_path / "killed", kills, "print('ready', flush=True)\nsys.stdin.readline()\n")
    command = [sys.executable, "-c", program]
    with Decoder(CONFIG, audio_rate=RATE, audio_samples=20_000, command=command) as decoder:
        if kills == 1:
            assert levels(decoder.decode(clips / "sound.mp4")) == [3, 9, 15, 21]
        else:
            rejected = rejection(decoder, clips / "sound.mp4")
            assert (rejected.reason, rejected.detail) == ("decoder_crashed", "the decoder ended with status -9")
            assert levels(decoder.decode(clips / "sound.mp4")) == [3, 9, 15, 21]


def test_sound_is_cut_to_the_windows_of_the_frames(decoder: Decoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "sound.mp4")
    assert decoded.sound is not None and decoded.sound.shape == (4, 20_000)
    spectrum = np.abs(np.fft.rfft(decoded.sound[1]))
    assert abs(np.fft.rfftfreq(20_000, 1 / RATE)[spectrum.argmax()] - 440) < 5
    ends = decoder.decode(
        clips / "nearly_all_sound.mp4"
    ).sound  # in the last window's part of 2 s, 0.18 s behind its start
    assert ends is not None and np.abs(ends[:3]).max(axis=1).min() > 0.1
    assert np.abs(ends[3][:5000]).max() > 0.1 and not ends[3][12_000:].any()


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("late", [0.3, -0.5])
def test_a_sound_that_starts_later_or_earlier_than_the_pictures_is_of_their_time(
    decoder: Decoder, tmp_path: Path, suffix: str, late: float
) -> None:
    """The sound's last half is a tone, which begins 1 s behind the first picture."""
    path, at = tmp_path / f"a.{suffix}", max(-late, 0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=12, options={"bf": "0"})
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for i in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 8 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i + round(12 * at), Fraction(1, 12)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        t = np.arange(round((2 - late) * RATE)) / RATE + late
        wave = np.where(t >= 1, 0.3 * np.sin(2 * np.pi * 440 * t), 0).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        sound.rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), round((late + at) * RATE)
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    found = decoder.decode(path).sound
    assert found is not None
    loud = np.abs(found).max(axis=1) > 0.1
    assert loud.tolist() == [False, False, True, True]


def test_a_sound_far_beyond_full_scale_is_cut_to_numbers_that_can_be_squared(decoder: Decoder, tmp_path: Path) -> None:
    with av.open(str(render(tmp_path / "silent.mkv"))) as silent, av.open(str(tmp_path / "loud.mkv"), "w") as loud:
        video = loud.add_stream_from_template(silent.streams.video[0])
        audio = loud.add_stream("pcm_f32le", rate=RATE, layout="mono")
        for packet in silent.demux():
            if packet.dts is not None:
                packet.stream = video
                loud.mux(packet)
        sound = av.AudioFrame.from_ndarray(np.full((1, 2 * RATE), 1e25, np.float32), format="flt", layout="mono")
        sound.rate, sound.pts = RATE, 0
        loud.mux(audio.encode(sound))
    sound = decoder.decode(tmp_path / "loud.mkv").sound
    assert sound is not None and sound.max() == 8 and np.isfinite(sound).all()


def lasting(path: Path, seconds: float, codec: str = "flac") -> Path:
    """Two seconds of pictures and a silence of so many, in a few kB."""
    return render(path, sound_s=seconds, codec=codec, silent=True)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mp4", "flac"), ("mkv", "flac")])
def test_a_sound_that_is_longer_than_a_video_may_be_is_refused_by_its_header(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = lasting(tmp_path / f"a.{suffix}", 9, codec)
    bounds = Decoder(CONFIG.model_copy(update={"max_seconds": 8.0}), audio_rate=RATE, audio_samples=20_000).limits
    with pytest.raises(Rejected) as caught:
        read_header(str(path), bounds)
    assert caught.value.reason == "too_long"
    assert read_header(str(path), bounds | {"max_seconds": 8.9}).seconds <= 9.1, "coders add a little at its end"


def test_a_sound_of_which_the_header_lies_is_bounded_by_the_seconds_that_it_has(tmp_path: Path) -> None:
    path = lasting(tmp_path / "a.mkv", 9)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in ms
    data[at : at + 8] = struct.pack(">d", 2000.0)
    path.write_bytes(data)
    with Decoder(CONFIG.model_copy(update={"max_seconds": 8.0}), audio_rate=RATE, audio_samples=20_000) as bounded:
        assert read_header(str(path), bounded.limits).longest == 2.0
        assert rejection(bounded, path).reason == "too_long"


def test_memory_does_not_grow_with_the_length_of_the_sound(decoder: Decoder, tmp_path: Path) -> None:
    used = []
    for seconds in (10, 180):  # of which the longer one has 30 MB more at 44.1 kHz
        path = lasting(tmp_path / f"{seconds}.mp4", seconds)
        assert path.stat().st_size < 500_000
        assert decoder.decode(path).sound is not None
        status = Path(f"/proc/{decoder._child().pid}/status").read_text()
        used.append(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) // 1024)  # type: ignore[index]
    assert used[1] - used[0] < 25, f"MB at most: {used}"


def test_a_sound_with_a_hole_in_it_is_told_with_what_ffmpeg_says_of_it(decoder: Decoder, tmp_path: Path) -> None:
    path = render(tmp_path / "a.mp4", sound_s=2.0)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.pos is not None]
    data = bytearray(path.read_bytes())
    for packet in packets[20:40]:
        data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(data)
    warnings = decoder.decode(path).warnings
    assert any(one.startswith("broken sound: [aac") and "0x" not in one for one in warnings), warnings


def test_a_container_that_says_no_number_of_frames_declares_none(decoder: Decoder, tmp_path: Path) -> None:
    assert decoder.decode(render(tmp_path / "a.mkv")).declared_frames == 0


def test_a_container_that_counts_its_time_from_another_moment_declares_no_more_for_it(
    decoder: Decoder, tmp_path: Path
) -> None:
    decoded = decoder.decode(render(tmp_path / "a.mkv", starts_ms=[5000 + 80 * i for i in range(25)]))
    assert (decoded.warnings, round(decoded.duration_ms, -2)) == ([], 1900)


def test_pictures_that_end_early_are_told(decoder: Decoder, clips: Path) -> None:
    assert "the container declares 2.00 s, its pictures end at 1.50 s" in decoder.decode(clips / "torn.mp4").warnings


def test_times_that_do_not_increase_and_frames_that_are_missing_are_told() -> None:
    declared, times = Header(96, 64, 3, 3.0, 3.0, 0.0, 0.0), np.array([[0, 1], [1, 2], [1, 3]], np.float64)
    complaints = SimpleNamespace(first=lambda: None)
    compared = partial(decoder_child._compared, declared, complaints=complaints)
    assert compared(decoder_child.Pictures(None, times), 3, 3) == ["frame times do not increase"]
    times[2, 0] = 2
    assert compared(decoder_child.Pictures(None, times), 3, 3) == []
    assert compared(decoder_child.Pictures(None, times), 3, 2) == ["3 frames asked, 2 decoded"]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_picture_that_is_shown_turned_has_its_sides_exchanged(decoder: Decoder, tmp_path: Path, degrees: int) -> None:
    """The display matrix of the track's header, 16.16 fixed, turned by hand."""
    path = render(tmp_path / "a.mp4")
    data, cos, sin = bytearray(path.read_bytes()), *{0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 20] = struct.pack(">5i", cos << 16, sin << 16, 0, -sin << 16, cos << 16)
    path.write_bytes(data)
    found = read_header(str(path), decoder.limits)
    assert (found.width, found.height) == ((64, 96) if degrees % 180 else (96, 64))
    decoded = decoder.decode(path)
    assert (decoded.width, decoded.height) == (found.width, found.height)


def test_absent_sound_says_why(decoder: Decoder, clips: Path) -> None:
    silent, short = decoder.decode(clips / "silent.mp4"), decoder.decode(clips / "short_sound.mp4")
    assert (silent.sound, silent.audio_absent) == (None, "no_audio_stream")
    assert (short.sound, short.audio_absent) == (None, "audio_short")
    assert "of 2.00 s" in short.warnings[0]


def test_one_frame_is_not_repeated(decoder: Decoder, clips: Path) -> None:
    assert decoder.decode(clips / "one_frame.mp4").frames.shape == (1, 32, 32, 3)


def test_a_variable_frame_rate_is_sampled_by_time(decoder: Decoder, clips: Path) -> None:
    decoded = decoder.decode(clips / "vfr.mp4")
    assert min(levels(decoded)) >= 12, "the fast first part lasts 240 ms of 3.8 s"


@pytest.mark.parametrize(
    ("name", "reason"), [("cut.mp4", "unreadable"), ("audio_only.mp4", "no_video_stream"), ("text.mp4", "unreadable")]
)
def test_a_broken_file_is_rejected_with_its_reason_and_the_next_one_decodes(
    decoder: Decoder, clips: Path, name: str, reason: str
) -> None:
    first, second = rejection(decoder, clips / name), rejection(decoder, clips / name)
    assert first.reason == reason
    assert first.detail == second.detail, "the same file is described in the same words"
    assert len(decoder.decode(clips / "silent.mp4").frames) == 4


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_seconds": 1.0}, "too_long"),
        ({"max_pixels": 96 * 64 - 1}, "too_many_pixels"),
        ({"max_frames": 23}, "too_many_frames"),
        ({"max_streams": 1}, "too_many_streams"),
    ],
)
def test_bounds_are_held_inside_the_child(clips: Path, limit: dict[str, float], reason: str) -> None:
    with Decoder(CONFIG.model_copy(update=limit), audio_rate=0, audio_samples=0) as bounded:
        assert rejection(bounded, clips / "sound.mp4").reason == reason


@pytest.mark.parametrize(
    ("limit", "reason"), [({"max_seconds": 1.0}, "too_long"), ({"max_frames": 23}, "too_many_frames")]
)
def test_bounds_are_held_by_the_header_before_an_old_decoder_sees_the_file(
    clips: Path, limit: dict[str, float], reason: str
) -> None:
    bounds = Decoder(CONFIG.model_copy(update=limit), audio_rate=0, audio_samples=0).limits
    with pytest.raises(Rejected) as caught:
        read_header(str(clips / "sound.mp4"), bounds)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("limit", "reason"), [({"max_seconds": 1.0}, "too_long"), ({"max_frames": 23}, "too_many_frames")]
)
def test_what_a_header_does_not_say_is_bounded_all_the_same(
    tmp_path: Path, limit: dict[str, float], reason: str
) -> None:
    """24 frames of 2 s, of which the header says half a second and no number."""
    data = bytearray(render(tmp_path / "a.mkv").read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, in ms
    data[at : at + 8] = struct.pack(">d", 500.0)
    (tmp_path / "a.mkv").write_bytes(data)
    with Decoder(CONFIG.model_copy(update=limit), audio_rate=0, audio_samples=0) as bounded:
        said = read_header(str(tmp_path / "a.mkv"), bounded.limits)
        assert (said.frames, said.seconds) == (0, 0.5)
        assert rejection(bounded, tmp_path / "a.mkv").reason == reason


@pytest.mark.parametrize("sizes", [((96, 64), (320, 240)), ((320, 240), (96, 64))], ids=["large last", "large first"])
def test_every_video_stream_is_within_the_bounds_and_the_one_that_is_decoded_is_declared(
    decoder: Decoder, tmp_path: Path, sizes: tuple[tuple[int, int], ...]
) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        streams = [container.add_stream("libx264", rate=12) for _ in sizes]
        for stream, (width, height) in zip(streams, sizes, strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(24):
            for stream in streams:
                picture = rng.integers(0, 256, (stream.height, stream.width, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    decoded = decoder.decode(tmp_path / "two.mp4")
    assert (decoded.width, decoded.height) == (320, 240), "the larger has the higher bit rate"
    with pytest.raises(Rejected) as caught:
        read_header(str(tmp_path / "two.mp4"), decoder.limits | {"max_pixels": 320 * 240 - 1})
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "flv"])
def test_a_title_tag_that_is_no_utf_8_does_not_condemn_a_video(decoder: Decoder, tmp_path: Path, suffix: str) -> None:
    tagged = render(tmp_path / f"a.{suffix}", tags={"title": "Caf@"})
    data = tagged.read_bytes()
    assert data.count(b"Caf@") == 1
    tagged.write_bytes(data.replace(b"Caf@", b"Caf\xe9"))  # as Latin-1 has it
    assert len(decoder.decode(tagged).frames) == 4


def test_a_playlist_is_not_followed_even_past_the_probe(decoder: Decoder, tmp_path: Path) -> None:
    """Both decoders would: of the first decord gives the other file's frames."""
    render(tmp_path / "other.ts")
    lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2,", "other.ts", "#EXT-X-ENDLIST", "")
    (tmp_path / "list.m3u8").write_text("\n".join(lines))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.ts\n")
    for name in ("list.m3u8", "list.mp4"):
        assert rejection(decoder, tmp_path / name).reason == "unreadable"
        with pytest.raises(Rejected):
            read_header(str(tmp_path / name), decoder.limits)


def test_what_is_declared_is_compared_with_what_is_there(decoder: Decoder, clips: Path) -> None:
    torn, holed = decoder.decode(clips / "torn.mp4"), decoder.decode(clips / "holed.mp4")
    assert torn.declared_frames == 24
    assert torn.warnings[0] == "the container declares 24 frames, 18 are in the file"
    assert len(holed.frames) == 4, "decord says nothing of it"
    assert holed.warnings[0].startswith("broken pictures: [h264] ")
    assert "0x" not in holed.warnings[0], "the same file is described in the same words"


def test_a_sound_that_ends_early_is_told_even_where_enough_is_left(decoder: Decoder, clips: Path) -> None:
    assert decoder.decode(clips / "sound.mp4").warnings == []
    nearly = decoder.decode(clips / "nearly_all_sound.mp4")
    assert nearly.sound is not None and "of 2.00 s" in nearly.warnings[0]


def test_the_child_reaches_no_network_and_starts_no_program(clips: Path) -> None:
    program = (
        "import os, socket, threading\n"
        "from mealrec.features.confinement import confine\n"
        "confine()\n"
        "calls = {'socket': socket.socket, 'fork': os.fork, 'exec': lambda: os.execv('/bin/true', ['true'])}\n"
        "for name, forbidden in calls.items():\n"
        "    try: forbidden()\n"
        "    except PermissionError: print(name)\n"
        "made = threading.Thread(target=print, args=['thread'])\n"
        "made.start(); made.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["socket", "fork", "exec", "thread"]
    with Decoder(CONFIG, audio_rate=0, audio_samples=0) as confined:
        tasks = Path(f"/proc/{confined._child().pid}/task")
        status = [(task / "status").read_text() for task in tasks.iterdir()]
    assert all("Seccomp:\t2" in text and "NoNewPrivs:\t1" in text for text in status), "every thread of it"


def test_threads_that_were_there_before_are_confined_too() -> None:
    program = (
        "import socket, threading\n"
        "from mealrec.features.confinement import confine\n"
        "confined = threading.Event()\n"
        "def reach():\n"
        "    confined.wait()\n"
        "    try: socket.socket()\n"
        "    except PermissionError: print('refused')\n"
        "earlier = threading.Thread(target=reach)\n"
        "earlier.start()\n"
        "confine()\n"
        "confined.set()\n"
        "earlier.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "refused\n"


def test_a_child_that_can_not_be_confined_decodes_nothing(clips: Path) -> None:
    program = "import platform, runpy\nplatform.machine = lambda: 'vax'\n"
    program += "runpy.run_module('mealrec.features.decoder_child', run_name='__main__')"
    with stub(program) as loose, pytest.raises(DecoderError):
        loose.decode(clips / "silent.mp4")


@pytest.mark.parametrize("program", [DEAF, SPINNING], ids=["deaf to SIGTERM", "spinning with the GIL held"])
def test_a_child_that_hangs_is_killed_at_its_deadline(clips: Path, program: str) -> None:
    with stub(program, deadline=0.5) as hanging:
        child = hanging._child()
        began = time.monotonic()
        assert rejection(hanging, clips / "silent.mp4").reason == "decode_timeout"
        assert time.monotonic() - began < 5
        assert child.poll() is not None, "nothing is left running"


@pytest.mark.parametrize("program", [CRASHING, BABBLING, BOASTING], ids=["crash", "nonsense", "too large an answer"])
def test_a_child_that_crashes_or_talks_nonsense_costs_one_video_and_is_replaced(clips: Path, program: str) -> None:
    with stub(program) as failing:
        rejected = rejection(failing, clips / "silent.mp4")
        assert (rejected.reason, rejected.lasting) == ("decoder_crashed", False), (
            "it may have been no fault of the video's"
        )
        failing.command = list(decoder_module.CHILD)
        assert len(failing.decode(clips / "silent.mp4").frames) == 4


def test_the_child_is_recycled_after_a_number_of_videos(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "RECYCLE_AFTER", 2)
    with Decoder(CONFIG, audio_rate=0, audio_samples=0) as recycled:
        seen = set()
        for _ in range(3):
            seen.add(recycled._child().pid)
            recycled.decode(clips / "one_frame.mp4")
    assert len(seen) == 2


@pytest.mark.parametrize("kills", [2, 3])
def test_a_child_that_is_killed_as_it_starts_is_started_again_a_few_times(
    clips: Path, tmp_path: Path, kills: int
) -> None:
    with stub(killed_first(tmp_path / "killed", kills, "")) as decoder:
        if kills == 2:
            assert levels(decoder.decode(clips / "sound.mp4")) == [3, 9, 15, 21]
        else:
            with pytest.raises(DecoderError, match="does not start"):
                decoder.decode(clips / "sound.mp4")


def test_a_decoder_that_does_not_start_blames_no_video(clips: Path) -> None:
    with stub("raise SystemExit(3)") as broken, pytest.raises(DecoderError, match="run it by hand"):
        broken.decode(clips / "silent.mp4")


def test_the_child_may_not_write_files_nor_outlive_its_parent(clips: Path) -> None:
    program = (
        "import os, resource, signal, sys, time\n"
        "from mealrec.config import FeaturesConfig\n"
        "from mealrec.features.decoder import Decoder\n"
        "most = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (most, most))\n"
        "child = Decoder(FeaturesConfig(), audio_rate=0, audio_samples=0)._child()\n"
        "limits = open(f'/proc/{child.pid}/limits').read()\n"
        "held = {l[:26].strip(): l.split()[-3] for l in limits.splitlines()}\n"
        "names = ('Max file size', 'Max core file size', 'Max open files', 'Max address space')\n"
        "assert [held[n] for n in names] == ['0', '0', '64', str(6 * 2**30)], limits\n"
        "os.kill(child.pid, signal.SIGSTOP)\n"  # it can't notice a closed pipe
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    pid = int(done.stdout)
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"the decoder's child {pid} outlived its parent")


def test_another_command_is_the_decoder_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clips: Path
) -> None:
    config = FeaturesConfig(frames=2, frame_size=64, audio="none", text="none")
    started = tmp_path / "started"
    script = tmp_path / "decoder.sh"
    script.write_text(f"#!/bin/sh\ntouch '{started}'\nexec '{sys.executable}' -m mealrec.features.decoder_child\n")
    script.chmod(0o755)
    monkeypatch.setenv("MEALREC_DECODER", f"'{script}'")
    decoder = decoder_for(build(config), config)
    assert decoder is not None
    with decoder:
        assert len(decoder.decode(clips / "silent.mp4").frames) == 2
    assert started.exists()
