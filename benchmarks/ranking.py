"""Rates of exact ranking: top K beside a bare matrix product with torch.topk, ranks beside the product alone, and RecBole.

    python benchmarks/ranking.py --data "$MEALREC_DATA/microlens50k" --peers ./peers

Each case runs in a process of its own, so that its peak memory is its own; what is compared is timed in turn within it. Without
--data the last part is left out; without an environment of RecBole in --peers (`make peers`) ours stands there alone.
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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.data.packed import Packed, save_user_ids, training_part
from mealrec.data.split import leave_one_out
from mealrec.evaluation.metrics import candidates_only, ranks_among
from mealrec.evaluation.ranking import plain_scorer, rank_targets
from mealrec.model.mealrec import MealRec
from mealrec.model.precision import exact_products
from mealrec.model.settings import ModelSettings
from mealrec.model.top_k import best_of, rows_at_once

RESULT = Path(__file__).parent / "results" / "ranking.json"
PEER = Path(__file__).parent / "peers" / "recbole_ranking.py"
WIDTH, K, HISTORY = 64, 100, 8
SIZES = {"top_k_19220": (19_220, 256), "top_k_1m": (1_000_000, 64)}
LAYERS, LONGEST, PEER_BATCH = 2, 50, 512


def best_rates(works: dict[str, Callable[[], object]], rows: int, seconds: float) -> dict[str, float]:
    """Rows a second of each in its fastest round; the works take turns, so that whatever else runs hits all of them."""
    fastest = dict.fromkeys(works, float("inf"))
    for work in works.values():
        work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, work in works.items():
            began = time.perf_counter()
            work()
            fastest[name] = min(fastest[name], time.perf_counter() - began)
    return {name: rows / took for name, took in fastest.items()}


@torch.no_grad()
def top_k_case(videos: int, rows: int, seconds: float) -> dict[str, Any]:
    """Ours, history masked and ties by index, and the bare product with torch.topk at its best batch size."""
    generator = torch.Generator().manual_seed(0)
    catalogue, states = (torch.randn(n, WIDTH, generator=generator) for n in (videos + 1, rows))
    hidden = torch.randint(videos + 1, (rows, HISTORY), generator=generator)
    base = peak_mb()

    def bare(batch: int) -> None:
        for at in range(0, rows, batch):
            torch.topk(states[at : at + batch] @ catalogue.T, K, dim=1)

    best_of(states, catalogue, K, hidden)
    ours_mb = peak_mb() - base
    batches = (16, 32, 64, 256) if videos < 100_000 else (16, 64)
    works: dict[str, Callable[[], object]] = {f"bare {batch}": lambda b=batch: bare(b) for batch in batches}
    found = best_rates({"ours": lambda: best_of(states, catalogue, K, hidden), **works}, rows, seconds)
    ours = found.pop("ours")
    return {
        "videos": videos,
        "k": K,
        "viewers_per_s": ours,
        "bare_viewers_per_s": max(found.values()),
        "bare_by_batch": found,
        "ratio": ours / max(found.values()),
        "extra_memory_mb": ours_mb,
    }


@torch.no_grad()
def ranks_case(seconds: float) -> dict[str, Any]:
    """Ranks of targets among all videos, history masked, beside the matrix product that they can't do without."""
    videos = SIZES["top_k_19220"][0]
    rows = 2 * rows_at_once(videos)
    generator = torch.Generator().manual_seed(0)
    catalogue, states = (torch.randn(n, WIDTH, generator=generator) for n in (videos + 1, rows))
    seen, target = torch.randint(1, 9000, (rows, HISTORY), generator=generator), torch.full((rows,), 9001)
    scores, space = torch.empty(rows, videos + 1), torch.empty(rows, videos + 1)

    def ours() -> Tensor:
        with exact_products():
            torch.mm(states, catalogue.T, out=scores)
        return ranks_among(candidates_only(scores, seen), target, space)

    found = best_rates({"ours": ours, "product": lambda: states @ catalogue.T}, rows, seconds)
    return {
        "videos": videos,
        "viewers_per_s": found["ours"],
        "product_viewers_per_s": found["product"],
        "ratio": found["ours"] / found["product"],
    }


def evaluation_case(folder: Path, rounds: int) -> dict[str, Any]:
    """`rank_targets` over a packed folder's test viewers with an untrained SASRec: encoding, scores and ranks, which are what
    RecBole's HR and NDCG are made of; the rate with exposure (what is recommended to whom) beside it."""
    data = Packed.open(folder)
    torch.manual_seed(0)
    switches: dict[str, Any] = {"content": False, "npd": "off", "layers": LAYERS, "width": WIDTH}
    model = MealRec(ModelSettings(**data.content.dims, max_history=LONGEST, **switches)).eval()
    scorer = plain_scorer(model, model.ids.weight.detach())
    took: dict[bool, list[float]] = {False: [], True: []}
    for exposure in (False, True) * rounds:
        began = time.perf_counter()
        ranked = rank_targets(scorer, data, "test", max_history=LONGEST, exposure=exposure)
        took[exposure].append(time.perf_counter() - began)
    viewers = len(ranked.rank)
    return {
        "videos": data.items,
        "viewers": viewers,
        "viewers_per_s": viewers / min(took[False]),
        "viewers_per_s_with_exposure": viewers / min(took[True]),
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def packed_from(pairs: Path, out: Path) -> Path:
    """MicroLens' *_pairs.tsv (viewer, tab, videos oldest first) as a packed folder without content."""
    lines = [line.split("\t")[1].split() for line in pairs.read_text().splitlines()]
    videos = sorted({video for row in lines for video in row}, key=int)
    index = {video: at for at, video in enumerate(videos, start=1)}
    rows = [list(dict.fromkeys(index[video] for video in row)) for row in lines]
    sequence = np.concatenate([np.array(row, dtype=np.int64) for row in rows])
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    counts = np.bincount(training_part(sequence, offsets, leave_one_out(offsets))[0], minlength=len(videos) + 1)
    n = len(videos) + 1
    arrays: dict[str, Any] = {"sequence": sequence, "offsets": offsets, "train_count": counts.astype(np.int64)}
    arrays |= {name: np.zeros((n, 1, 0), np.float16) for name in ("visual", "audio")} | {"text": np.zeros((n, 0))}
    arrays |= {
        "position": np.zeros((n, 1), np.float32),
        "times": np.full((n, 1), -1),
        "frame_mask": np.zeros((n, 1), bool),
    }
    arrays |= {"available": np.zeros((n, 3), bool)}
    out.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)
    save_user_ids(out, [str(viewer) for viewer in range(len(rows))])
    (out / "items.json").write_text(json.dumps(videos))
    (out / "meta.json").write_text("{}")
    return out


def atomic_file(data: Packed, folder: Path, name: str) -> None:
    """The same interactions as RecBole's atomic file."""
    (folder / name).mkdir()
    with (folder / name / f"{name}.inter").open("w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for viewer in range(data.viewers):
            row = data.sequence[data.offsets[viewer] : data.offsets[viewer + 1]].tolist()
            out.writelines(f"{viewer}\t{item}\t{at}\n" for at, item in enumerate(row))


def recbole(python: Path, data: Packed, scratch: Path, viewers: int) -> dict[str, Any]:
    """RecBole's evaluation of the same viewers; same width, layers, history and threads."""
    atomic_file(data, scratch, "set")
    sizes = {
        "width": WIDTH,
        "layers": LAYERS,
        "history": LONGEST,
        "batch": PEER_BATCH,
        "threads": torch.get_num_threads(),
        "viewers": viewers,
    }
    asked = [part for key, value in sizes.items() for part in (f"--{key}", str(value))]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), str(PEER), str(scratch), "--name", "set", *asked]
    done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"RecBole failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_a_process(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def evaluation(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    folder = packed_from(next(given.data.glob("*_pairs.tsv")), scratch / "packed")
    python = given.peers / "bin" / "python"
    found: dict[str, Any] = {"before": in_a_process("--case", "evaluation", "--folder", str(folder))}
    if python.is_file():
        found["recbole"] = recbole(python, Packed.open(folder), scratch, given.peer_viewers)
        found["after"] = in_a_process("--case", "evaluation", "--folder", str(folder))
        slower = min(found[when]["viewers_per_s"] for when in ("before", "after"))
        found["ratio"] = slower / found["recbole"]["viewers_per_s"]
    return found


def one_case(given: argparse.Namespace) -> dict[str, Any]:
    if given.case == "ranks":
        return ranks_case(given.seconds)
    if given.case == "evaluation":
        return evaluation_case(given.folder, rounds=2)
    return top_k_case(*SIZES[given.case], given.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MicroLens' *_pairs.tsv")
    parser.add_argument("--peers", type=Path, default=Path("peers"), help="RecBole's environment")
    parser.add_argument("--peer-viewers", type=int, default=50_000, help="how many RecBole ranks; its rate is the same")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each timing")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--case", choices=[*SIZES, "ranks", "evaluation"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(one_case(given)))
        return 0
    before = os.getloadavg()
    cases: dict[str, Any] = {}
    for name in (*SIZES, "ranks"):
        cases[name] = in_a_process("--case", name, "--seconds", str(given.seconds))
        print(name, json.dumps(cases[name]), file=sys.stderr, flush=True)
    if given.data:
        with tempfile.TemporaryDirectory() as scratch:
            cases["evaluation"] = evaluation(given, Path(scratch))
    result = {
        "command": "python benchmarks/ranking.py --data $MEALREC_DATA/microlens50k --peers ./peers "
        f"--seconds {given.seconds:g} --peer-viewers {given.peer_viewers}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit_of(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "cases": cases,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
