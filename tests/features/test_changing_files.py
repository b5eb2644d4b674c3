"""Files that go away, change, or are there once too often while they are read; descriptors that run out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mealrec.config import FeaturesConfig
from mealrec.features.decoder import Decoded, Decoder
from mealrec.features.encoders import EncoderSet
from mealrec.features.probe import Probe, VideoRejected, probe
from mealrec.features.rows import Outcome, Seconds, Wanted, describe

pytestmark = pytest.mark.media

CONFIG = FeaturesConfig(frames=2, frame_size=32)
NO_ENCODERS = EncoderSet(None, None, None, "none")


class Meddling(Decoder):
    """Does something to the file between its hash and its decoding, or right behind it, as another process may."""

    meddle: Callable[[Path], object]

    late = False

    def decode(self, path: Path, identity: list[int] | None = None) -> Decoded:
        if self.late:
            decoded = super().decode(path, identity)
        type(self).meddle(path)
        return decoded if self.late else super().decode(path, identity)


def outcome(folder: Path, meddle: Callable[[Path], object], late: bool) -> Outcome:
    class This(Meddling):
        pass

    This.meddle, This.late = staticmethod(meddle), late
    wanted = [Wanted(name, f"{name}.mp4", None, "") for name in ("first", "meddled", "last")]
    with This(CONFIG, audio_rate=0, audio_samples=0) as decoder:
        return describe(wanted, folder, CONFIG, NO_ENCODERS, decoder, Seconds())


@pytest.mark.parametrize("late", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("how", ["removed", "rewritten", "grown", "replaced"])
def test_a_file_that_goes_away_or_changes_while_it_is_read_costs_itself_alone(
    tmp_path: Path, clips: Path, how: str, late: bool
) -> None:
    for name in ("first", "meddled", "last", "other"):
        shutil.copy(clips / "silent.mp4", tmp_path / f"{name}.mp4")
    before = (tmp_path / "meddled.mp4").stat()

    def meddle(path: Path) -> None:
        if path.name != "meddled.mp4":
            return
        if how == "removed":
            path.unlink()
        elif how == "rewritten":
            path.write_bytes((clips / "sound.mp4").read_bytes())
        elif how == "grown":
            with path.open("ab") as file:
                file.write(b"more")
        else:  # the same size and time: only the file itself is another
            (tmp_path / "other.mp4").replace(path)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    found = outcome(tmp_path, meddle, late)
    assert [row["video_id"] for row in found.features] == ["first", "last"]
    assert [(row["key"], row["reason"]) for row in found.quarantine] == [("meddled", "changed_while_read")]
    assert "tried_as" not in found.quarantine[0]["payload"], "the next run looks again"


def rejected(folder: Path, decoder: Decoder) -> str:
    """The reason of the only video, which is to be tried again."""
    with decoder:
        found = describe([Wanted("a", "a.mp4", None, "")], folder, CONFIG, NO_ENCODERS, decoder, Seconds())
    assert found.features == []
    (row,) = found.quarantine
    assert "tried_as" not in row["payload"]
    return str(row["reason"])


def test_a_file_that_is_exchanged_behind_its_probe_is_not_decoded(
    tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, clip in (("a", "silent"), ("secret", "sound")):
        shutil.copy(clips / f"{clip}.mp4", tmp_path / f"{name}.mp4")

    @contextmanager
    def exchanged(uri: str, root: Path, config: FeaturesConfig) -> Iterator[Probe]:
        found = probe(uri, root, config)
        found.path.unlink()
        found.path.symlink_to("secret.mp4")
        yield found

    monkeypatch.setattr("mealrec.features.rows.local_file", exchanged)
    assert rejected(tmp_path, Decoder(CONFIG, audio_rate=0, audio_samples=0)) == "changed_while_read"


def test_a_file_that_is_another_one_for_as_long_as_it_is_decoded_is_tried_again(tmp_path: Path, clips: Path) -> None:
    for name, clip in (("a", "silent"), ("other", "sound")):
        shutil.copy(clips / f"{clip}.mp4", tmp_path / f"{name}.mp4")

    class Exchanged(Decoder):
        def decode(self, path: Path, identity: list[int] | None = None) -> Decoded:
            path.rename(tmp_path / "aside.mp4")
            (tmp_path / "other.mp4").rename(path)
            try:
                return super().decode(path, identity)
            finally:
                (tmp_path / "aside.mp4").rename(path)

    assert rejected(tmp_path, Exchanged(CONFIG, audio_rate=0, audio_samples=0)) == "changed_while_read"


def test_what_is_said_of_a_file_that_changed_is_not_held_against_it(tmp_path: Path, clips: Path) -> None:
    shutil.copy(clips / "silent.mp4", tmp_path / "a.mp4")

    class Confused(Decoder):
        def decode(self, path: Path, identity: list[int] | None = None) -> Decoded:
            path.touch()
            raise VideoRejected("undecodable", "it changed under the decoder's hands")

    assert rejected(tmp_path, Confused(CONFIG, audio_rate=0, audio_samples=0)) == "changed_while_read"


def test_descriptors_do_not_leak_and_running_out_of_them_says_so(clips: Path) -> None:
    """A few descriptors above those in use are enough for many videos, children that are killed included."""
    program = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from mealrec.config import FeaturesConfig\n"
        "from mealrec.features.decoder import Decoder, DecoderError\n"
        "from mealrec.features.encoders import EncoderSet\n"
        "from mealrec.features.rows import Seconds, Wanted, describe\n"
        "config, none = FeaturesConfig(frames=2, frame_size=32), EncoderSet(None, None, None, '')\n"
        "wanted = [Wanted(str(i), 'silent.mp4' if i % 2 else 'cut.mp4', None, '') for i in range(40)]\n"
        "used = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (used + 10, used + 10))\n"
        "with Decoder(config, audio_rate=0, audio_samples=0) as decoder:\n"
        "    for i in range(0, 40, 10):\n"
        "        found = describe(wanted[i : i + 10], Path(sys.argv[1]), config, none, decoder, Seconds())\n"
        "        assert (len(found.features), len(found.quarantine)) == (5, 5)\n"
        "        decoder.close()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 10))\n"
        "try: decoder.decode(Path('x'))\n"
        "except DecoderError as error: print(error)\n"
        "with Decoder(config, audio_rate=0, audio_samples=0) as decoder:\n"
        "    for room in (0, 1):\n"  # none for the look at a file, then none for its child
        "        resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1 + room, used + 10))\n"
        "        try: describe(wanted[1:2], Path(sys.argv[1]), config, none, decoder, Seconds())\n"
        '        except (OSError, DecoderError): print("no descriptor is no video\'s fault")\n'
    )
    done = subprocess.run([sys.executable, "-c", program, str(clips)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no descriptor is no video's fault") == 2, done.stdout
    assert "the decoder does not start" in done.stdout and "Too many open files" in done.stdout
