"""`mealrec bench truth`: train on the made-up catalogue and measure what TCD found, for the whole model and without parts."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from mealrec.bench.truth import Found, make, measure
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings

VARIANTS: Mapping[str, dict[str, Any]] = {
    "mealrec": {},
    "no guidance (A2)": {"guidance": False},
    "no TCD (A1)": {"tcd": "mean"},
    "attention, no diffusion (A8)": {"tcd": "attention"},
}
# with fewer or shorter histories not even the IDs of watched videos tell the two orders apart (benchmarks/LOG.md)
VIEWERS, LENGTH = 2000, 16
NETWORK = {"width": 32, "max_history": LENGTH, "dropout": 0.1, "id_dropout": 0.5, "denoiser_layers": 1}
# content has to be read: half of the candidates and of the histories are known by it alone
TRAINING = TrainSettings(
    warmup_epochs=3,
    joint_epochs=10,
    batch_size=32,
    patience=99,
    lr=3e-3,
    joint_lr=3e-3,
    candidate_dropout=0.5,
    ema_decay=0.99,
)


def train_on_truth(
    folder: Path, changes: Mapping[str, Any], *, seed: int, viewers: int = VIEWERS, training: TrainSettings = TRAINING
) -> Found:
    """Train one variant for a fixed number of epochs (the validation targets say nothing about order) and measure it."""
    data, world = make(folder, viewers=viewers, length=LENGTH, seed=seed)
    torch.manual_seed(seed)
    settings = ModelSettings(**(data.content.dims | NETWORK | dict(changes)))
    state = State.fresh(MealRec(settings), training)
    Trainer(data, training, seed=seed).run(state)
    return measure(state.teacher, data, world)


def run_truth(out: Path, *, seeds: Sequence[int], say: Callable[[str], None] = print) -> str:
    """Fill `out` with every (variant, seed) it does not hold yet; returns a Markdown table."""
    held: dict[str, dict[str, dict[str, float]]] = json.loads(out.read_text()) if out.is_file() else {}
    for variant, changes in VARIANTS.items():
        for seed in seeds:
            if str(seed) in held.setdefault(variant, {}):
                continue
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                held[variant][str(seed)] = train_on_truth(Path(folder), changes, seed=seed)._asdict()
            say(f"{variant} seed {seed}: {held[variant][str(seed)]} ({time.monotonic() - began:.0f} s)")
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")
    return table(held)


def table(held: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Mean and standard deviation over seeds of each figure."""
    lines = [
        "| model | salience AUC | weight of a duplicate over its original | topic viewers, AUC | order viewers, AUC | seeds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for variant in VARIANTS:
        runs = list(held.get(variant, {}).values())
        if runs:
            cells = [_spread([run[name] for run in runs]) for name in Found._fields]
            lines.append("| " + " | ".join([variant, *cells, str(len(runs))]) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
