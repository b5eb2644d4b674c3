"""Decode videos in a child that is killed at a deadline; nothing a file does can hang or kill the caller."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from mealrec.config import FeaturesConfig
from mealrec.features.probe import VideoRejected

CHILD = (sys.executable, "-m", "mealrec.features.decoder_child")
READY = b"ready"
START_S = 60.0  # for the child's imports on a loaded machine; not taken from a video's deadline
STARTS = 3  # of a child that is killed before it is ready
TO_END_S = 5.0  # for a child that has closed its pipe
RECYCLE_AFTER = 200  # videos; leaks of native code stay bounded
CHUNK = 1 << 20


class DecoderKilled(VideoRejected):
    """The child was killed, and not for its deadline: by a system short of memory, or with the worker that it belongs to."""


class DecoderError(RuntimeError):
    """The decoder itself does not start: no video is to blame."""


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

    `command` is the child's command line: it says READY, then answers (see decoder_child); tests put stubs there that hang,
    crash or talk nonsense. Not for several threads: the child dies with the thread that started it."""

    def __init__(
        self, config: FeaturesConfig, *, audio_rate: int, audio_samples: int, command: Sequence[str] = CHILD
    ) -> None:
        self.config, self.command = config, list(command)
        self.limits = {
            "frames": config.frames,
            "size": config.frame_size,
            "max_pixels": config.max_pixels,
            "max_seconds": config.max_seconds,
            "max_frames": config.max_frames,
            "max_streams": config.max_streams,
            "audio_rate": audio_rate,
            "audio_samples": audio_samples,
        }
        self.child: subprocess.Popen[bytes] | None = None
        self.done = 0

    def sampling(self) -> dict[str, int]:
        """What decides, beside a file's bytes, which frames and sound come back."""
        return {k: int(self.limits[k]) for k in ("frames", "size", "audio_rate", "audio_samples")}

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def decode(self, path: Path, identity: list[int] | None = None) -> Decoded:
        """Raises VideoRejected: decode_timeout after config.decode_deadline_s, decoder_crashed when the child died or
        answered nonsense, or the child's own reason. Raises DecoderError when no child can be started.

        identity: the file that it has to be (Probe.identity); None: whichever is there. One killed child says nothing about
        the video: another is asked. Two do."""
        try:
            return self._decode(path, identity)
        except DecoderKilled:
            return self._decode(path, identity)

    def _decode(self, path: Path, identity: list[int] | None) -> Decoded:
        child = self._child()
        request = {"path": str(path), "identity": identity, **self.limits}
        try:
            return self._ask(child, request, time.monotonic() + self.config.decode_deadline_s)
        except TimeoutError:
            self.close()
            raise VideoRejected("decode_timeout", f"not done in {self.config.decode_deadline_s:g} s") from None
        except (BrokenPipeError, EOFError):
            status = child.wait()
            self.close()
            kind = DecoderKilled if status == -signal.SIGKILL else VideoRejected
            raise kind("decoder_crashed", f"the decoder ended with status {status}", lasting=False) from None
        except (ValueError, KeyError, TypeError) as error:
            self.close()
            raise VideoRejected("decoder_crashed", f"the decoder's answer is none: {error}", lasting=False) from None
        finally:
            self.done += 1
            if self.done >= RECYCLE_AFTER:
                self.close()

    def _ask(self, child: subprocess.Popen[bytes], request: Mapping[str, object], deadline: float) -> Decoded:
        assert child.stdin is not None
        child.stdin.write(json.dumps(request).encode() + b"\n")
        child.stdin.flush()
        answer = _Answer(child, deadline)
        header = json.loads(answer.line())
        if not header["ok"]:
            lasting = header["reason"] != "changed_while_read"
            raise VideoRejected(header["reason"], header["detail"], lasting=lasting)
        size = self.config.frame_size
        count, shape = len(header["times_ms"]), tuple(header["frames"])
        if shape != (count, size, size, 3) or not 0 < count <= self.config.frames:
            raise ValueError(f"frames of shape {shape}")
        frames = np.frombuffer(answer.bytes(count * size * size * 3), np.uint8).reshape(shape)
        sound = None
        if header["audio"]:
            windows, samples = header["audio"]
            if windows != count or not 0 < samples <= self.limits["audio_samples"]:
                raise ValueError(f"sound of shape {header['audio']}")
            sound = np.frombuffer(answer.bytes(4 * windows * samples), np.float32).reshape(windows, samples)
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
            for left in reversed(range(STARTS)):
                if self._start():
                    break
                assert self.child is not None
                was_killed = self.child.poll() == -signal.SIGKILL  # as a system short of memory kills
                self.close()
                if not (was_killed and left):
                    raise DecoderError(
                        f"the decoder does not start; run it by hand to see why: {' '.join(self.command)}"
                    )
        assert self.child is not None
        return self.child

    def _start(self) -> bool:
        """Whether the child that is started becomes ready."""
        try:
            self.child = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:  # no file descriptor, no memory or no process left, or no such program
            raise DecoderError(f"the decoder does not start: {error}") from error
        try:
            return _Answer(self.child, time.monotonic() + START_S).line() == READY
        except TimeoutError:
            return False
        except EOFError:
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(TO_END_S)
            return False


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
