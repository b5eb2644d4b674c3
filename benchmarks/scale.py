"""What training and ranking cost as catalogue, viewers, frames and width grow: seconds and bytes on generated sets.

    python benchmarks/scale.py                      # every size of the table, some 20 minutes on two cores
    python benchmarks/scale.py --sizes 100k

A set is written as a packed dataset (mapped arrays), then trained and ranked in a process of its own, whose peak memory counts
the mapped pages too. Steps are timed, not whole epochs: an epoch is as many of them as the table says. The catalogue's refresh
and the rankings are timed as they are.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import Size, write

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.data.batches import Windows, steps_per_epoch, training_batches
from mealrec.data.packed import Packed
from mealrec.evaluation.ranking import rank_targets
from mealrec.model.mealrec import MealRec
from mealrec.model.precision import matmul
from mealrec.model.settings import ModelSettings
from mealrec.training import checkpoint
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings

RESULT = Path(__file__).parent / "results" / "scale.json"
HISTORY, BATCH = 8, 1024
TIMED, RANKED = 10, 2_000


SIZES = {
    "20k": Size(20_000, 100_000),
    "100k": Size(100_000, 1_000_000),
    "100k, 8 frames": Size(100_000, 1_000_000, frames=8),
    "100k, width 128": Size(100_000, 1_000_000, width=128),
    "300k": Size(300_000, 1_000_000),
    "1M": Size(1_000_000, 1_000_000),
}


def measure(folder: Path, size: Size) -> dict[str, Any]:
    """Seconds of a step of each stage, of a refresh and of ranking, bytes of memory, checkpoint and features."""
    torch.set_num_threads(2)
    data = Packed.open(folder)
    settings = ModelSettings(
        **(data.content.dims | {"width": size.width, "max_history": HISTORY, "personal": "pooling"})
    )
    config = TrainSettings(batch_size=BATCH)
    torch.manual_seed(0)
    state = State.fresh(MealRec(settings), config)
    trainer, facts_s = _timed(lambda: Trainer(data, config, seed=0))
    windows = Windows.of(data, HISTORY)
    warmup_s = _steps(trainer, state, data, windows)
    state.progress.epoch = 1
    trainer._leave_stage(state)
    catalogue, refresh_s = _timed(lambda: trainer._refresh(state.model))
    trainer.see(catalogue)
    joint_s = _steps(trainer, state, data, windows)
    model = state.model.eval()
    scorer, build_s = _timed(lambda: _scorer(model, data, trainer))
    _, rank_s = _timed(lambda: rank_targets(scorer, data, "test", max_history=HISTORY, most=RANKED))
    with tempfile.TemporaryDirectory() as held:
        _, save_s = _timed(lambda: checkpoint.save(state, Path(held)))
        saved = sum(p.stat().st_size for p in Path(held).iterdir())
    return {
        "steps_an_epoch": steps_per_epoch(windows, BATCH),
        "softmax": "whole" if trainer.negatives is None else f"{trainer.negatives.count} sampled",
        "facts_s": facts_s,
        "warmup_step_s": warmup_s,
        "joint_step_s": joint_s,
        "refresh_s": refresh_s,
        "serving_vectors_s": build_s,
        "ranked_viewers_a_s": RANKED / rank_s,
        "checkpoint_s": save_s,
        "checkpoint_gib": saved / 2**30,
        "features_gib": sum(p.stat().st_size for p in folder.iterdir()) / 2**30,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _scorer(model: MealRec, data: Packed, trainer: Trainer) -> Any:
    from mealrec.bench.cell import scorer_of

    return scorer_of(model, trainer.facts, data.content.gather)


def _steps(trainer: Trainer, state: State, data: Packed, windows: Windows) -> float:
    """Median seconds of a step."""
    state.model.train()
    trainer.steps = steps_per_epoch(windows, BATCH)
    took = []
    with matmul("medium"):
        batches = training_batches(data, windows, batch_size=BATCH, seed=0, epoch=0)
        for step, batch in enumerate(islice(batches, TIMED + 1)):
            began = time.perf_counter()
            trainer._step(state, batch, step)
            took.append(time.perf_counter() - began)
    return float(np.median(took[1:]))


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    out = work()
    return out, time.perf_counter() - began


def _case(size: Size, pipe: Any) -> None:
    pipe.send(measure_in_folder(size))


def measure_in_folder(size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        # written by another process, so that its memory does not count
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(Path(folder), size))
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"writing {size} ended with status {writer.exitcode}")
        return measure(Path(folder), size)


def table(sizes: dict[str, dict[str, Any]]) -> str:
    """Markdown, a row a size. An epoch is its steps at the measured seconds a step and one refresh."""
    lines = [
        "| videos | viewers | frames | width | loss over | warm-up step | joint step | warm-up epoch | joint epoch | refresh "
        "| ranked viewers/s | checkpoint | features | peak memory |",
        "|" + "---:|" * 14,
    ]
    for size in sorted(sizes.values(), key=lambda size: (size["videos"], size["frames"], size["width"])):
        epochs = [size["steps_an_epoch"] * size[f"{stage}_step_s"] for stage in ("warmup", "joint")]
        columns = [
            f"{size['videos']:,}",
            f"{size['viewers']:,}",
            f"{size['frames']}",
            f"{size['width']}",
            "all" if size["softmax"] == "whole" else size["softmax"],
            *(f"{size[f'{stage}_step_s']:.2f} s" for stage in ("warmup", "joint")),
            f"{epochs[0] / 60:.1f} min",
            f"{(epochs[1] + size['refresh_s']) / 60:.1f} min",
            f"{size['refresh_s']:.1f} s",
            f"{size['ranked_viewers_a_s']:,.0f}",
            *(f"{size[f'{what}_gib']:.2f} GiB" for what in ("checkpoint", "features", "peak")),
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES), help="default: all")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    held = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"sizes": {}}
    for name in arguments.sizes:
        mine, theirs = multiprocessing.get_context("spawn").Pipe()
        case = multiprocessing.get_context("spawn").Process(target=_case, args=(SIZES[name], theirs))
        case.start()
        theirs.close()
        found = mine.recv()
        case.join()
        found = {k: v if isinstance(v, str | int) else round(v, 4) for k, v in found.items()}
        held["sizes"][name] = asdict(SIZES[name]) | found
        held |= {
            "command": " ".join(["python", "benchmarks/scale.py", *sys.argv[1:]]),
            "commit": commit_of(),
            "hardware": hardware(),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        arguments.out.write_text(json.dumps(held, indent=1) + "\n")
        print(name, json.dumps(held["sizes"][name]), file=sys.stderr, flush=True)
    print(table(held["sizes"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
