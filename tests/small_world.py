"""One small run of the whole pipeline, made once for every test file that looks at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.canaries import SECRETS

SMALL = (
    "source.videos=24",
    "source.viewers=80",
    "source.days=7",
    "features.frames=4",
    "features.actors=1",  # a second one would import for longer than both work
    "train.warmup_epochs=4",
    "train.joint_epochs=2",
    "train.batch_size=32",
    "model.width=32",
    "registry.baselines=[]",  # too small a world to beat baselines for sure: the gate has its own tests
    "registry.max_latency_ms=60000",  # and other tests run beside this one
)


def command(lake: Path, *more: str) -> list[str]:
    settings = [part for setting in (*SMALL, *more) for part in ("--set", setting)]
    return [sys.executable, "-m", "mealrec.cli", "demo", "--lake", str(lake), "--json", *settings]


def run(lake: Path, *more: str) -> dict[str, Any]:
    """With secrets in the environment, as a team's machine has them: tests look for them in what is left behind."""
    environment = dict(os.environ) | SECRETS
    done = subprocess.run(
        command(lake, *more), capture_output=True, text=True, timeout=900, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-5000:]
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary
