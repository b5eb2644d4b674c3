"""Seeded mutations of valid videos, through the probe and the real decoder child.

    python -m tests.features.mutations --count 50000 [--seed 0] [--clips DIR]      # make fuzz

Every mutated file has to end in decoded frames or in one of the known reasons, and a valid file has to decode to the same bytes
afterwards. Prints what the files ended in; exit status 1 when one ended otherwise, whose file is kept.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mealrec.config import FeaturesConfig
from mealrec.features.decoder import Decoder
from mealrec.features.probe import VideoRejected, probe

CONFIG = FeaturesConfig(frames=2, frame_size=32, decode_deadline_s=10.0)
DECODED = "decoded"
CHECK_EVERY = 100  # a valid file decodes to the same bytes after so many
BOXES = (
    b"moov",
    b"trak",
    b"mdia",
    b"stbl",
    b"stsd",
    b"stts",
    b"stsc",
    b"stsz",
    b"stco",
    b"tkhd",
    b"mdhd",
    b"avcC",
    b"mdat",
)


def flipped(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 3, 30))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwritten(data: bytearray, rng: random.Random) -> None:
    at, length = rng.randrange(len(data)), rng.randrange(1, 200)
    data[at : at + length] = rng.choice((b"\0", b"\xff", bytes([rng.randrange(256)]))) * len(data[at : at + length])


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def torn_out(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 500)]


def doubled(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.randrange(1, 500)]


def lied_to(data: bytearray, rng: random.Random) -> None:
    """A length, count or size in a header box becomes another: 0, huge, negative, one off."""
    places = [at for box in BOXES if (at := data.find(box)) >= 4]
    if not places:
        return flipped(data, rng)
    at = rng.choice(places) + rng.choice((-4, 4, 8, 12, 16, 20, 24, 28))
    value = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.getrandbits(32)))
    data[at : at + 4] = value.to_bytes(4, "big")[: max(len(data) - at, 0)]
    return None


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flipped,
    overwritten,
    cut,
    torn_out,
    doubled,
    lied_to,
)


def mutated(valid: Sequence[bytes], seed: int) -> bytes:
    """One of the valid files with one or two mutations; the same seed, the same bytes."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(valid))
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice(MUTATIONS)(data, rng)
        if not data:
            data.append(0)
    return bytes(data)


def run(
    valid: Sequence[Path], seeds: range, folder: Path, say: Callable[[int, Counter[str]], None] = lambda *_: None
) -> Counter[str]:
    """What the mutated files ended in. Raises whatever else than a rejection comes out of one; its file stays in the folder."""
    held, ends = [path.read_bytes() for path in valid], Counter[str]()
    with Decoder(CONFIG, audio_rate=44_100, audio_samples=2_000) as decoder:
        expected = decoder.decode(valid[0]).frames.tobytes()
        for done, seed in enumerate(seeds, start=1):
            path = folder / f"{seed}.mp4"
            path.write_bytes(mutated(held, seed))
            try:
                decoder.decode(probe(str(path), folder, CONFIG).path)
                ends[DECODED] += 1
            except VideoRejected as rejected:
                assert not rejected.detail.endswith("status 1"), f"a Python exception in the child: {path}"
                ends[rejected.reason] += 1
            path.unlink()
            if done % CHECK_EVERY == 0:
                assert decoder.decode(valid[0]).frames.tobytes() == expected, (
                    f"a valid file decodes otherwise after {seed}"
                )
                say(done, ends)
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first file; those of the others follow it")
    parser.add_argument("--clips", type=Path, help="mutate the files of this folder; else a few that are rendered")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mealrec-fuzz-"))
    valid = sorted(p for p in arguments.clips.iterdir() if p.is_file()) if arguments.clips else rendered(folder)
    began = time.monotonic()

    def say(done: int, ends: Counter[str]) -> None:
        rate = done / (time.monotonic() - began)
        print(f"\r{done}/{arguments.count} {rate:.0f}/s {dict(ends.most_common())}", end="", file=sys.stderr)

    ends = run(valid, range(arguments.seed, arguments.seed + arguments.count), folder, say)
    print(f"\n{sum(ends.values())} files in {time.monotonic() - began:.0f} s: {dict(ends.most_common())}")
    return 0


def rendered(folder: Path) -> list[Path]:
    """Small valid files: pictures alone, with sound, with a moving header, in Matroska."""
    from tests.features.conftest import render

    return [
        render(folder / "sound.mp4", sound_s=2.0),
        render(folder / "noise.mp4", frames=6, noise=True),
        render(folder / "silent.mkv"),
        render(folder / "sound.avi", sound_s=1.0, frames=12),
    ]


if __name__ == "__main__":
    sys.exit(main())
