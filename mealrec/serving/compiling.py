"""Compile a bundle's pass over a window: `python -m mealrec.serving.compiling BUNDLE OUT NICENESS`, a process of its own.

Takes about a minute of one core and a C++ compiler, and no longer than whoever asked for it lives.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from mealrec.model.window import FEWEST, WholeWindow, rows_of
from mealrec.serving.recommender import Recommender

PR_SET_PDEATHSIG = 1


def compile_bundle(bundle: Path, out: Path) -> None:
    """Write a package for `torch._inductor.aoti_load_package`. Raises whatever torch can't export or compile."""
    held = Recommender.load(bundle)
    tables = held.tables()
    held.model.ids = nn.Embedding(1, held.model.settings.width)  # the table is given: it must not be in the package too
    longest = max(held.model.settings.max_history, FEWEST + 1)
    example = rows_of([1 + n % len(held.video_ids) for n in range(longest)])
    shapes = (({0: torch.export.Dim("rows", min=FEWEST, max=longest)}), tuple(None for _ in tables))
    with torch.no_grad():
        program = torch.export.export(WholeWindow(held.model), (example, *tables), dynamic_shapes=shapes)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(out), inductor_configs={"cpp.threads": 1, "compile_threads": 1}
        )


def main() -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(int(sys.argv[3]))
    torch.set_num_threads(1)
    try:
        compile_bundle(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # of a large machinery: its first line says what, the rest of it where
        print(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
