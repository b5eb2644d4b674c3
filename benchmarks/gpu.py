"""The numeric core on one GPU: does it compute what the CPU computes, how fast, and how near to what the device can do.

    python benchmarks/gpu.py                                              # minutes; torch and numpy are enough
    python benchmarks/gpu.py --device cpu --videos 2000 --viewers 20000   # the same on a machine without one

On a generated set (benchmarks/generated.py). Agreement: vectors of the catalogue, ranks of targets, loss and gradient of a step
without any random choice, and the mean of the joint loss over draws (a device has its own random numbers). Speed: steps,
refresh, ranking. Profile: the heaviest operations of joint steps, each beside the least time its operations and bytes need at
the rates of a plain product and a plain copy on the same device (the roofline). Bytes are those of an operation's inputs and
its result, in float32; what works on a list of tensors shows no shapes, and so no share.

Exit status 1 where the device disagrees with the CPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generated import Size, write
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mealrec.bench.cell import scorer_of
from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.data.batches import Batch, Windows, steps_per_epoch, training_batches
from mealrec.data.packed import Packed
from mealrec.evaluation.ranking import rank_targets
from mealrec.model.inference import describe_range
from mealrec.model.mealrec import MealRec
from mealrec.model.precision import exact_products, matmul
from mealrec.model.settings import ModelSettings
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings

RESULT = Path(__file__).parent / "results" / "gpu.json"
HISTORY, BATCH = 8, 1024
COMPARED, RANKED, DRAWS = 512, 20_000, 32
TIMED, PROFILED, HEAVIEST = 10, 3, 3
PRODUCT = {"cuda": 8192, "cpu": 2048}  # rows of the square product whose rate counts as the device's
COPIED = 1 << 26  # float32 numbers of the copy
ALLOWED = {"catalogue_error": 1e-3, "loss_error": 1e-4, "gradient_error": 1e-3, "ranks_moved": 1e-4, "joint_z": 4.0}


def settings_of(data: Packed, **more: Any) -> ModelSettings:
    return ModelSettings(**(data.content.dims | {"width": 64, "max_history": HISTORY, "personal": "pooling"} | more))


def trainer_of(data: Packed, config: TrainSettings, model: MealRec, device: str, stage: str) -> tuple[Trainer, State]:
    """A trainer at the beginning of a stage's first epoch, over a copy of the model."""
    state = State.fresh(copy.deepcopy(model).to(device), config)
    trainer = Trainer(data, config, seed=0, device=device)
    if stage == "joint":
        state.progress.epoch = 1
        trainer._leave_stage(state)
    trainer.steps = steps_per_epoch(Windows.of(data, HISTORY), config.batch_size)
    trainer._begin(state)
    state.model.train()
    return trainer, state


def batches_of(data: Packed, size: int, count: int) -> list[Batch]:
    made = training_batches(data, Windows.of(data, HISTORY), batch_size=size, seed=0, epoch=0)
    return list(islice(made, count))


def agreement(data: Packed, device: str) -> dict[str, float]:
    """How far the device is from the CPU; ALLOWED says how far it may be. ranks_moved: mean share of the catalogue
    (scores of an untrained model lie close, and rounding swaps neighbours)."""
    torch.manual_seed(0)
    model = MealRec(settings_of(data, dropout=0.0, id_dropout=0.0)).eval()
    found = {place: _computed(data, model, place) for place in ("cpu", device)}
    mine, theirs = found["cpu"], found[device]
    spread = math.sqrt((mine["joint"].var() + theirs["joint"].var()) / DRAWS)
    return {
        "catalogue_error": _error(theirs["vectors"], mine["vectors"]),
        "ranks_moved": float(np.abs(theirs["ranks"] - mine["ranks"]).mean()) / data.items,
        "loss_error": abs(theirs["loss"] / mine["loss"] - 1),
        "gradient_error": _error(theirs["gradient"], mine["gradient"]),
        "joint_z": abs(float(theirs["joint"].mean() - mine["joint"].mean())) / spread,
    }


def _computed(data: Packed, model: MealRec, device: str) -> dict[str, Any]:
    placed = copy.deepcopy(model).to(device)
    config = TrainSettings(candidate_dropout=0.0, batch_size=COMPARED, matmul="highest")
    batch = batches_of(data, COMPARED, 1)[0]
    with exact_products(device):
        warm, state = trainer_of(data, config, model, device, "warmup")
        vectors = describe_range(placed, data.content.gather, 1, data.items + 1).described
        scorer = scorer_of(placed, warm.facts, data.content.gather)
        ranked = rank_targets(scorer, data, "test", max_history=HISTORY, most=2_000, device=device)
    with matmul(config.matmul):
        losses = warm._losses(state, batch, torch.Generator(device).manual_seed(0))
        losses.total.backward()
        joint, state_s1 = trainer_of(data, config, model, device, "joint")
        draws = [_joint(joint, state_s1, batch, draw) for draw in range(DRAWS)]
    gradient = torch.cat([p.grad.reshape(-1) for p in state.model.parameters() if p.grad is not None])
    return {
        "vectors": vectors.cpu(),
        "ranks": ranked.rank,
        "loss": float(losses.total.detach()),
        "gradient": gradient.cpu(),
        "joint": np.array(draws),
    }


def _joint(trainer: Trainer, state: State, batch: Batch, draw: int) -> float:
    torch.manual_seed(draw)
    return float(trainer._losses(state, batch, torch.Generator(trainer.device).manual_seed(draw)).total.detach())


def _error(found: Tensor, wanted: Tensor) -> float:
    """Length of the difference over that of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


def speed(data: Packed, device: str) -> dict[str, float]:
    """Median seconds of a step of each stage, seconds of a refresh, ranked viewers a second."""
    torch.manual_seed(0)
    model, config = MealRec(settings_of(data)), TrainSettings(batch_size=BATCH)
    warm, state = trainer_of(data, config, model, device, "warmup")
    found = {"warmup_step_s": _step_s(warm, state, data)}
    joint, state = trainer_of(data, config, model, device, "joint")
    found["joint_step_s"] = _step_s(joint, state, data)
    _, found["refresh_s"] = timed(lambda: joint._refresh(state.model), device)
    scorer = scorer_of(state.model.eval(), joint.facts, data.content.gather)
    ranked, seconds = timed(
        lambda: rank_targets(scorer, data, "test", max_history=HISTORY, most=RANKED, device=device), device
    )
    return found | {"ranked_viewers_a_s": len(ranked.rank) / seconds}


def _step_s(trainer: Trainer, state: State, data: Packed) -> float:
    device, took = str(trainer.device), []
    with matmul(trainer.config.matmul):
        for at, batch in enumerate(batches_of(data, BATCH, TIMED + 1)):
            took.append(timed(partial(trainer._step, state, batch, at), device)[1])
    return float(np.median(took[1:]))


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """Until the device has done it."""
    wait(device)
    began = time.perf_counter()
    out = work()
    wait(device)
    return out, time.perf_counter() - began


def wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def rates(device: str) -> dict[str, float]:
    """Operations a second of a square product as training makes it, bytes a second of a copy: the best of some."""
    kind = torch.device(device).type
    n = PRODUCT[kind]
    a, held = torch.randn(n, n, device=device), torch.randn(COPIED, device=device)
    space, out = torch.empty_like(held), torch.empty_like(a)
    with matmul(TrainSettings().matmul):
        product = min(timed(lambda: torch.mm(a, a, out=out), device)[1] for _ in range(5))
    copied = min(timed(lambda: space.copy_(held), device)[1] for _ in range(5))
    return {"operations_a_s": 2 * n**3 / product, "bytes_a_s": 2 * held.nbytes / copied}


def heaviest(data: Packed, device: str, rate: dict[str, float]) -> list[dict[str, Any]]:
    """The operations that take most of a joint step, each over all its calls."""
    torch.manual_seed(0)
    config = TrainSettings(batch_size=BATCH)
    trainer, state = trainer_of(data, config, MealRec(settings_of(data)), device, "joint")
    batches = batches_of(data, BATCH, PROFILED + 1)
    is_cuda = torch.device(device).type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with matmul(config.matmul):
        trainer._step(state, batches[0], 0)
        wait(device)
        with profile(activities=kinds, record_shapes=True, with_flops=True) as seen:
            for at in range(1, PROFILED + 1):
                trainer._step(state, batches[at], at)
            wait(device)
    spent: dict[str, list[tuple[float, Any]]] = {}
    for event in seen.key_averages(group_by_input_shape=True):
        if event.device_type != DeviceType.CPU:
            continue  # a kernel: its time is already that of the operation which started it
        time_us = event.self_device_time_total if is_cuda else event.self_cpu_time_total
        spent.setdefault(event.key, []).append((time_us, event))
    rows = [_described(name, events, rate) for name, events in spent.items()]
    rows.sort(key=lambda row: row["ms_a_step"], reverse=True)
    whole = sum(row["ms_a_step"] for row in rows)
    return [row | {"of_the_step": row["ms_a_step"] / whole} for row in rows[:HEAVIEST]]


def _described(name: str, events: list[tuple[float, Any]], rate: dict[str, float]) -> dict[str, Any]:
    """One operation over all its shapes; `largest`: the shapes that took longest."""
    least_s = sum(_least_s(event, rate) for _, event in events)
    time_us = sum(spent for spent, _ in events)
    longest = max(events, key=lambda pair: pair[0])[1]
    return {
        "operation": name,
        "largest": [shape for shape in longest.input_shapes if shape],
        "calls_a_step": sum(event.count for _, event in events) / PROFILED,
        "ms_a_step": time_us / 1e3 / PROFILED,
        "of_the_roofline": least_s / (time_us / 1e6) if least_s and time_us else None,
    }


def _least_s(event: Any, rate: dict[str, float]) -> float:
    moved = event.count * 4 * numbers(event.key, event.input_shapes)
    return float(max(event.flops / rate["operations_a_s"], moved / rate["bytes_a_s"]))


def numbers(name: str, shapes: Sequence[Sequence[int]]) -> int:
    """Numbers that an operation reads and writes: its inputs, and a result as large as the largest of them, or, of products, as
    large as rows times columns."""
    tensors = [shape for shape in shapes if shape]
    sizes = [math.prod(shape) for shape in tensors]
    if not sizes:
        return 0
    if name.removeprefix("aten::") in ("mm", "bmm", "addmm", "baddbmm"):
        left, right = tensors[-2:]
        return sum(sizes) + math.prod(left[:-1]) * right[-1]
    return sum(sizes) + max(sizes)


def report(found: dict[str, Any]) -> str:
    lines = [f"agreement with the CPU: {', '.join(f'{k} {v:.2g}' for k, v in found['agreement'].items())}"]
    lines += [
        f"{place}: {', '.join(f'{k} {v:.4g}' for k, v in rate.items())}" for place, rate in found["speed"].items()
    ]
    lines += [
        "",
        "| operation | shapes | calls a step | ms a step | of the step | of the roofline |",
        "|---|---|" + "---:|" * 4,
    ]
    for row in found["heaviest"]:
        share = "" if row["of_the_roofline"] is None else f"{row['of_the_roofline']:.2f}"
        shapes = " ".join("x".join(map(str, shape)) for shape in row["largest"])
        times = f"{row['calls_a_step']:.0f} | {row['ms_a_step']:.2f} | {row['of_the_step']:.2f}"
        lines.append(f"| {row['operation']} | {shapes} | {times} | {share} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (default %(default)s)")
    parser.add_argument("--videos", type=int, default=20_000, help="default %(default)s")
    parser.add_argument("--viewers", type=int, default=100_000, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    if torch.device(given.device).type == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU here; --device cpu runs the same without one", file=sys.stderr)
        return 2
    size = Size(given.videos, given.viewers)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), size)
        data = Packed.open(Path(folder))
        rate = rates(given.device)
        found = {
            "size": asdict(size),
            "agreement": agreement(data, given.device),
            "rates": rate,
            "speed": {place: speed(data, place) for place in dict.fromkeys(("cpu", given.device))},
            "heaviest": heaviest(data, given.device, rate),
        }
    print(report(found))
    found |= {"command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]), "commit": commit_of()}
    found |= {"hardware": hardware(), "when": datetime.now(UTC).isoformat(timespec="seconds")}
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    beyond = [name for name, most in ALLOWED.items() if not found["agreement"][name] <= most]
    for name in beyond:
        print(f"error: {name} is {found['agreement'][name]:.3g}, above {ALLOWED[name]:g}", file=sys.stderr)
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
