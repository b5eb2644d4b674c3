"""Sampled frames and sound kept beside the lake, so that other encoders need no decoding: one file a video, by its content.

Nothing is lost by keeping (raw frames, raw sound): features made from kept frames are those of a fresh decode. Cost: some
150 kB a frame of 224 pixels and 100 kB a window of sound. Delete the folder to free it; what is missing is decoded again.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mealrec.config import digest
from mealrec.features.decoder import Decoded
from mealrec.features.limits import Limits, noted, noted_in, still_within
from mealrec.features.sampling import METHOD

log = logging.getLogger("mealrec.extract")

LEFT_S = 6 * 3600.0  # of this age, whoever wrote it is no longer at work


class KeptFrames:
    """`sampling`: all that decides which frames and sound are taken of a video, and at what size; limits: what a video has to
    be within for its frames to be used; anew: what is kept is made again and not used."""

    def __init__(self, folder: Path, sampling: dict[str, int], limits: Limits, *, anew: bool = False) -> None:
        self.folder, self.limits, self.anew = folder / digest(METHOD, sampling), limits, anew
        _sweep(self.folder)

    def get(self, content: str) -> Decoded | None:
        """None where nothing is kept of this content, or what is kept can't be read, is to be made anew or passed higher
        limits."""
        path = self._path(content)
        try:
            if self.anew or not path.is_file():
                return None
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata()
                if not still_within(noted_in(metadata), self.limits):
                    return None
                held = json.loads(metadata["decoded"])
                sound = file.get_tensor("sound") if "sound" in file.keys() else None  # noqa: SIM118
                return Decoded(frames=file.get_tensor("frames"), sound=sound, **held)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("kept frames %s can't be read and are made again: %s", path.name, error)
            return None

    def put(self, content: str, decoded: Decoded) -> None:
        """By rename, so that half a file is never read. A full or read-only disk costs the frames, not the video."""
        path = self._path(content)
        writing = path.with_name(f".{path.name}.{uuid4().hex}")
        arrays = {"frames": decoded.frames} | ({} if decoded.sound is None else {"sound": decoded.sound})
        held = {k: v for k, v in asdict(decoded).items() if k not in ("frames", "sound")}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(arrays, writing, metadata={"decoded": json.dumps(held), **noted(self.limits)})
            writing.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                writing.unlink()
            log.warning("frames are not kept: %s", error)

    def _path(self, content: str) -> Path:
        return self.folder / content[:2] / f"{content}.safetensors"


def _sweep(folder: Path) -> None:
    """Halves of files that killed workers left."""
    for half in folder.glob("??/.*.safetensors.*"):
        with suppress(OSError):
            if time.time() - half.stat().st_mtime > LEFT_S:
                half.unlink()
