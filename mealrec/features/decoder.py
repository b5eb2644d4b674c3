"""Decode videos in a child that is killed at a deadline; nothing a file does can hang or kill the caller."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from mealrec.config import FeaturesConfig
from mealrec.features.probe import VideoRejected

CHILD = (sys.executable, "-m", "mealrec.features.decoder_child")
RECYCLE_AFTER = 200  # videos; leaks of native code stay bounded
CHUNK = 1 << 20


@dataclass(frozen=True)
class Decoded:
    """frames uint8 [F, size, size, 3] RGB, times_ms [F]; sound float32 [F, samples] or None with audio_absent saying why."""

    frames: npt.NDArray[np.uint8]
    times_ms: list[int]
    duration_ms: int
    declared_frames: int
    width: int
    height: int
    sound: npt.NDArray[np.float32] | None
    audio_absent: str | None
    warnings: list[str]


class Decoder:
    """One child process, started on demand and replaced after a kill, a crash or RECYCLE_AFTER videos.

    `command` is the child's command line; tests put stubs there that hang or crash."""

    def __init__(
        self, config: FeaturesConfig, *, audio_rate: int, audio_samples: int, command: Sequence[str] = CHILD
    ) -> None:
        self.config, self.command = config, list(command)
        self.limits = {
            "frames": config.frames,
            "size": config.frame_size,
            "max_pixels": config.max_pixels,
            "max_seconds": config.max_seconds,
            "audio_rate": audio_rate,
            "audio_samples": audio_samples,
        }
        self.child: subprocess.Popen[bytes] | None = None
        self.done = 0

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def decode(self, path: Path) -> Decoded:
        """Raises VideoRejected: decode_timeout after config.decode_deadline_s, decoder_crashed when the child died, or the
        child's own reason."""
        child = self._child()
        deadline = time.monotonic() + self.config.decode_deadline_s
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps({"path": str(path), **self.limits}).encode() + b"\n")
            child.stdin.flush()
            answer = _Answer(child, deadline)
            header = json.loads(answer.line())
            if not header["ok"]:
                raise VideoRejected(header["reason"], header["detail"])
            frames = np.frombuffer(answer.bytes(_size(header["frames"], 1)), np.uint8).reshape(header["frames"])
            sound = None
            if header["audio"]:
                sound = np.frombuffer(answer.bytes(_size(header["audio"], 4)), np.float32).reshape(header["audio"])
        except TimeoutError:
            self.close()
            raise VideoRejected("decode_timeout", f"not done in {self.config.decode_deadline_s:g} s") from None
        except (BrokenPipeError, EOFError):
            status = child.wait()
            self.close()
            raise VideoRejected("decoder_crashed", f"the decoder ended with status {status}") from None
        finally:
            self.done += 1
            if self.done >= RECYCLE_AFTER:
                self.close()
        keys = ("times_ms", "duration_ms", "declared_frames", "width", "height", "audio_absent", "warnings")
        return Decoded(frames=frames, sound=sound, **{k: header[k] for k in keys})

    def close(self) -> None:
        """SIGKILL: a child that spins in native code hears nothing else."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None
        self.done = 0

    def _child(self) -> subprocess.Popen[bytes]:
        if self.child is None or self.child.poll() is not None:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self.child


class _Answer:
    """Reads an answer without ever waiting past the deadline."""

    def __init__(self, child: subprocess.Popen[bytes], deadline: float) -> None:
        assert child.stdout is not None
        self.descriptor, self.deadline, self.held = child.stdout.fileno(), deadline, bytearray()

    def line(self) -> bytes:
        while b"\n" not in self.held:
            self._more()
        line, _, rest = bytes(self.held).partition(b"\n")
        self.held = bytearray(rest)
        return line

    def bytes(self, count: int) -> bytes:
        while len(self.held) < count:
            self._more()
        out, self.held = bytes(self.held[:count]), self.held[count:]
        return out

    def _more(self) -> None:
        ready, _, _ = select.select([self.descriptor], [], [], max(self.deadline - time.monotonic(), 0))
        if not ready:
            raise TimeoutError
        data = os.read(self.descriptor, CHUNK)
        if not data:
            raise EOFError
        self.held += data


def _size(shape: list[Any], width: int) -> int:
    return int(np.prod(shape)) * width
