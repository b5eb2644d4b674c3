"""A version's pass over a viewer's window as native code: some hundreds of small operations become one call.

Compiled on this machine, in a process of its own (compiling.py), while the version answers without it; nothing compiled is ever
taken from elsewhere. Before it is used it is compared with the model that it was made from.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mealrec.model.incremental import encode, prefer
from mealrec.model.window import Seen, Tables, Whole, rows_of
from mealrec.serving.recommender import Recommender

COMPILING = "mealrec.serving.compiling"
PACKAGE, CACHE = "window.pt2", "cache"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
TIMEOUT_S = 1800.0
APART = 1e-3  # of a state's length, from the model's own: float32 in another order makes some 1e-6


class NotCompiled(RuntimeError):
    """There is no compiled form of a version; the message says why."""


class Native:
    """model.window.Whole from a package and the tables that it reads."""

    def __init__(self, package: Path, tables: Tables) -> None:
        self.run, self.tables = torch._inductor.aoti_load_package(str(package)), tables

    def __call__(self, rows: Tensor) -> Sequence[Tensor]:
        out: Sequence[Tensor] = self.run(rows, *self.tables)
        return out


def compiled(recommender: Recommender, niceness: int = 19) -> Whole:
    """Compile what answers for `recommender`: a minute of one core, and for that time the memory of another one. Raises
    NotCompiled."""
    bundle = recommender.content.root
    with tempfile.TemporaryDirectory(prefix="mealrec-") as scratch:  # nothing in it came with the bundle
        package = Path(scratch) / PACKAGE
        with _compiler_keeps_its_own_in(Path(scratch) / CACHE):  # loading asks it as well, what this processor can
            _run([sys.executable, "-m", COMPILING, str(bundle), str(package), str(niceness)])
            whole = Native(package, recommender.tables())
    compare(recommender, whole)
    return whole


@torch.inference_mode()
def compare(recommender: Recommender, whole: Whole) -> None:
    """Raises NotCompiled where `whole` and the model differ on windows of any length."""
    model, gather, plain = recommender.model, recommender.content.gather, recommender.cached.plain
    longest, videos = model.settings.max_history, len(recommender.video_ids)
    for length in sorted({1, 2, (longest + 1) // 2, longest}):
        window = [1 + n * 7 % videos for n in range(length)]
        state, _ = prefer(model, encode(model, gather, plain, window, None))
        found = Seen(*whole(rows_of(window))).state
        apart = float((found - state).norm() / state.norm().clamp(min=1e-8))
        if not apart <= APART:  # NaN is not
            raise NotCompiled(f"a window of {length} videos gives a state that is {apart:.1g} of its length apart")


@contextlib.contextmanager
def _compiler_keeps_its_own_in(folder: Path) -> Iterator[None]:
    """Native code is loaded from there: never from the folder with a known name that torch would use, below /tmp."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE)
        if before is not None:
            os.environ[CACHE_VARIABLE] = before


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise NotCompiled(f"not done after {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NotCompiled(said[-1] if said else f"the compiling process ended with status {done.returncode}")
