"""Training beside RecBole's: SASRec's target positions a second, seconds to RecBole's best validation NDCG@10, MealRec's epoch.

    MEALREC_DATA=./data python benchmarks/training.py --dataset bili_food --until-best
    MEALREC_DATA=./data python benchmarks/training.py --dataset microlens50k

Same data, width 64, two layers, histories of up to 50, as many target positions a step (2,048, RecBole's own), two threads;
each as it trains by default: RecBole in float32, ours with train.matmul=medium (the softmax's scores are in bfloat16 on a CPU
that multiplies it). Each case is a process of its own; ours runs before and after RecBole, and the ratio is of the slower one.
RecBole's environment is made by `make peers`; without it ours stands there alone. Ends with a line `ratio X`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mealrec.bench.cell import complete_settings
from mealrec.bench.folder import open_folder
from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.bench.rows import row
from mealrec.data.batches import Windows, evaluation_batches, steps_per_epoch
from mealrec.data.packed import Packed
from mealrec.evaluation.metrics import gains
from mealrec.evaluation.ranking import plain_scorer
from mealrec.model.mealrec import MealRec
from mealrec.model.precision import matmul
from mealrec.model.settings import ModelSettings
from mealrec.training.facts import item_vectors
from mealrec.training.loop import State, Trainer
from mealrec.training.optimiser import optimiser
from mealrec.training.settings import TrainSettings

RESULT = Path(__file__).parent / "results" / "training.json"
PEER = Path(__file__).parent / "peers" / "recbole_training.py"
WIDTH, LAYERS, HISTORY, POSITIONS = 64, 2, 50, 2048


def made(data: Packed, model: str, **changes: Any) -> tuple[Trainer, State, Windows]:
    """A trainer and a fresh state of a bench row at this benchmark's sizes."""
    windows = Windows.of(data, HISTORY)
    mean = (windows.spans[:, 1] - windows.spans[:, 0] - 1).mean()
    sizes = {"batch_size": round(POSITIONS / mean), "max_history": HISTORY}
    settings = complete_settings(row(model), sizes | changes, "")
    names = TrainSettings.__dataclass_fields__
    config = TrainSettings(**{key: value for key, value in settings.items() if key in names})
    shape = {key: value for key, value in settings.items() if key not in names}
    torch.manual_seed(0)
    network = MealRec(ModelSettings(**(data.content.dims | shape | {"width": WIDTH, "layers": LAYERS})))
    return Trainer(data, config, seed=0), State.fresh(network, config), windows


def one_epoch(trainer: Trainer, state: State, windows: Windows) -> None:
    """A training epoch from its first step, without validation."""
    state.progress.step, state.progress.losses = 0, {}
    trainer._train(state, windows, lambda state: None)
    state.progress.total_epochs += 1
    if state.progress.step != steps_per_epoch(windows, trainer.config.batch_size):
        raise SystemExit(f"an epoch ended after {state.progress.step} steps: the figures would be of nothing")


def speed_case(data: Packed, seconds: float) -> dict[str, float]:
    """Whole training epochs of SASRec, batches made and all, without validation."""
    trainer, state, windows = made(data, "sasrec")
    with matmul(trainer.config.matmul):
        one_epoch(trainer, state, windows)
        epochs, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds or not epochs:
            one_epoch(trainer, state, windows)
            epochs += 1
        took = time.perf_counter() - began
    positions = int((windows.spans[:, 1] - windows.spans[:, 0] - 1).sum())
    return {
        "positions_an_epoch": positions,
        "steps_an_epoch": steps_per_epoch(windows, trainer.config.batch_size),
        "positions_per_s": epochs * positions / took,
        "windows_per_s": epochs * len(windows.spans) / took,
        "s_an_epoch": took / epochs,
        "peak_mb": peak_mb(),
    }


def mealrec_case(data: Packed) -> dict[str, float]:
    """One joint epoch of the whole model (TCD and NPD), its catalogue refreshed before it, without validation."""
    trainer, state, windows = made(data, "mealrec")
    state.progress.enter_next_stage()
    state.optimiser = optimiser(state.model, "joint", trainer.config)
    took = []
    for _ in range(2):
        began = time.perf_counter()
        with matmul(trainer.config.matmul):
            state.pooled = None
            trainer._begin(state)
            one_epoch(trainer, state, windows)
        took.append(time.perf_counter() - began)
    return {"s_an_epoch": min(took), "peak_mb": peak_mb()}


def until_case(data: Packed, goal: float, lr: float) -> dict[str, Any]:
    """Seconds of training and validation until SASRec's validation NDCG@10, history not masked as in RecBole, reaches `goal`.
    The unmasked ranking itself is not on the clock: the loop validates every epoch as it always does."""
    trainer, state, _ = made(data, "sasrec", lr=lr)
    trainer.config = replace(trainer.config, warmup_epochs=200, patience=200)
    began, paused, curve = time.perf_counter(), 0.0, []

    class Reached(Exception):
        pass

    def look(state: State) -> None:
        nonlocal paused
        stopped = time.perf_counter()
        found = unmasked_ndcg(state.teacher, data, trainer)
        curve.append([round(stopped - began - paused, 2), round(found, 4)])
        paused += time.perf_counter() - stopped
        if found >= goal:
            raise Reached

    reached = True
    try:
        trainer.run(state, on_epoch=look)
        reached = False
    except Reached:
        pass
    return {"reached": reached, "goal": goal, "lr": lr, "seconds": curve[-1][0], "epochs": len(curve), "curve": curve}


@torch.no_grad()
def unmasked_ndcg(model: MealRec, data: Packed, trainer: Trainer) -> float:
    """Validation NDCG@10 among the whole catalogue, what was watched before left in."""
    score = plain_scorer(model.eval(), item_vectors(model, trainer.facts))
    ranks = []
    for _, batch in evaluation_batches(data, "valid", max_history=HISTORY, batch_size=512):
        scores = score(batch.history)
        scores[:, 0] = -torch.inf
        ranks.append((scores > scores.gather(1, batch.target[:, -1:])).sum(1) + 1)
    return float(gains(torch.cat(ranks), 10).mean())


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def atomic_file(data: Packed, folder: Path) -> None:
    """The same interactions as RecBole's atomic file."""
    (folder / "set").mkdir()
    with (folder / "set" / "set.inter").open("w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for viewer in range(data.viewers):
            seen = data.sequence[data.offsets[viewer] : data.offsets[viewer + 1]].tolist()
            out.writelines(f"{viewer}\t{item}\t{at}\n" for at, item in enumerate(seen))


def recbole(python: Path, data: Packed, threads: int, *asked: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        atomic_file(data, Path(scratch))
        sizes = {"width": WIDTH, "layers": LAYERS, "history": HISTORY, "batch": POSITIONS, "threads": threads}
        words = [part for key, value in sizes.items() for part in (f"--{key}", str(value))]
        command = [str(python), str(PEER), scratch, "--name", "set", *words, *asked]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return last_line(command, cwd=scratch, env=environment)


def last_line(command: list[str], **how: Any) -> dict[str, Any]:
    """The JSON object that a case prints last. Raises SystemExit with what it said when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        raise SystemExit(f"{command[1]}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def ours(given: argparse.Namespace, case: str, *more: str) -> dict[str, Any]:
    words = ["--dataset", given.dataset, "--threads", str(given.threads), "--cache", str(given.cache)]
    return last_line([sys.executable, __file__, *words, "--case", case, *more])


def compared(given: argparse.Namespace, data: Packed) -> dict[str, Any]:
    """Every case in turn."""
    say = lambda name: print(name, json.dumps(found[name])[:300], file=sys.stderr, flush=True)  # noqa: E731
    python = given.peers / "bin" / "python"
    found: dict[str, Any] = {"ours_before": ours(given, "speed")}
    say("ours_before")
    if python.is_file():
        found["recbole"] = recbole(python.absolute(), data, given.threads, "--steps", str(given.steps))
        say("recbole")
        found["ours_after"] = ours(given, "speed")
        say("ours_after")
        slower = min(found[when]["positions_per_s"] for when in ("ours_before", "ours_after"))
        found["ratio"] = slower / found["recbole"]["positions_per_s"]
    found["mealrec"] = ours(given, "mealrec")
    say("mealrec")
    if python.is_file():
        found["mealrec_epoch_share"] = found["mealrec"]["s_an_epoch"] / found["recbole"]["s_an_epoch"]
    if python.is_file() and given.until_best:
        found["recbole_until_best"] = recbole(python.absolute(), data, given.threads, "--patience", str(given.patience))
        say("recbole_until_best")
        goal = found["recbole_until_best"]["best_valid_ndcg@10"]
        found["ours_until_goal"] = ours(given, "until", "--goal", str(goal))
        say("ours_until_goal")
        reached, wanted = found["ours_until_goal"], found["recbole_until_best"]["seconds_to_best"]
        found["until_best_ratio"] = wanted / reached["seconds"] if reached["reached"] else None
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder below MEALREC_DATA")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="RecBole's environment (`make peers`)")
    parser.add_argument("--steps", type=int, default=5, help="RecBole's steps that are timed")
    parser.add_argument("--seconds", type=float, default=10.0, help="of our timing")
    parser.add_argument("--until-best", action="store_true", help="also train RecBole to its best epoch (minutes)")
    parser.add_argument(
        "--patience", type=int, default=5, help="epochs without a better one that end RecBole's training"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="our rate on the way to RecBole's best")
    parser.add_argument("--cache", type=Path, default=Path("var/bench"), help="where the set is packed")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--case", choices=["speed", "mealrec", "until"], help=argparse.SUPPRESS)
    parser.add_argument("--goal", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = Path(os.environ.get("MEALREC_DATA", "data")) / given.dataset
    data = open_folder(folder, given.cache, say=lambda line: print(line, file=sys.stderr))
    if given.case:
        case = {
            "speed": lambda: speed_case(data, given.seconds),
            "mealrec": lambda: mealrec_case(data),
            "until": lambda: until_case(data, given.goal, given.lr),
        }[given.case]
        print(json.dumps(case()))
        return 0
    before, commit = os.getloadavg(), commit_of()
    figures = compared(given, data)
    result = {
        "command": f"python benchmarks/training.py --dataset {given.dataset}{' --until-best' * given.until_best}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "hardware": hardware(),
        "load_average_before": before,
        **figures,
    }
    kept = json.loads(given.out.read_text()) if given.out.is_file() else {}
    given.out.write_text(json.dumps(kept | {given.dataset: result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if "ratio" in result:
        print(f"ratio {result['ratio']:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
