"""Sampled frames and sound kept beside the lake, so that other encoders need no decoding: one file a video, by its content.

Nothing is lost by keeping (raw frames, raw sound): features made from kept frames are those of a fresh decode. Cost: some
150 kB a frame of 224 pixels and 100 kB a window of sound. Delete the folder to free it; what is missing is decoded again.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mealrec.config import digest
from mealrec.features.decoder import Decoded
from mealrec.features.sampling import METHOD

log = logging.getLogger("mealrec.extract")


class KeptFrames:
    """`sampling`: all that decides which frames and sound are taken of a video, and at what size; anew: what is kept is
    made again and not used."""

    def __init__(self, folder: Path, sampling: dict[str, int], *, anew: bool = False) -> None:
        self.folder, self.anew = folder / digest(METHOD, sampling), anew

    def get(self, content: str) -> Decoded | None:
        """None where nothing is kept of this content, or what is kept can't be read or is to be made anew."""
        path = self._path(content)
        if self.anew or not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                held = json.loads(file.metadata()["decoded"])
                sound = file.get_tensor("sound") if "sound" in file.keys() else None  # noqa: SIM118
                return Decoded(frames=file.get_tensor("frames"), sound=sound, **held)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("kept frames %s can't be read and are made again: %s", path.name, error)
            return None

    def put(self, content: str, decoded: Decoded) -> None:
        """By rename, so that half a file is never read. A full disk costs the frames, not the video."""
        path = self._path(content)
        writing = path.with_name(f".{path.name}.{os.getpid()}")
        arrays = {"frames": decoded.frames} | ({} if decoded.sound is None else {"sound": decoded.sound})
        held = {k: v for k, v in asdict(decoded).items() if k not in ("frames", "sound")}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(arrays, writing, metadata={"decoded": json.dumps(held)})
            writing.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                writing.unlink()
            log.warning("frames are not kept: %s", error)

    def _path(self, content: str) -> Path:
        return self.folder / content[:2] / f"{content}.safetensors"
