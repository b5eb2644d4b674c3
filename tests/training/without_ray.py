"""What a training run must end as: the plain loop in as many processes over gloo, nothing between them and torch.

    python -m tests.training.without_ray JOB.json

JOB.json is a Job's to_json(). Prints one JSON: the digest of the state after the last epoch, which is what the last checkpoint
of such a run on Ray holds, and its curves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.training.loop import State, Trainer
from mealrec.training.peers import Peers
from mealrec.training.trainer import Job
from tests.training.killed_run import digest

ROOT = Path(__file__).resolve().parents[2]


def end_of(job: Job, folder: Path) -> dict[str, Any]:
    """{"digest": ..., "curves": ...} of the run, made in processes of their own; folder: for its settings."""
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(json.dumps(job.to_json()))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.without_ray", str(folder / "job.json")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def work(job: Job, rank: int, meeting: Path) -> dict[str, Any]:
    torch.set_num_threads(job.config.threads)
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=job.config.workers)
    torch.manual_seed(job.seed)
    config = job.config.settings()
    state = State.fresh(MealRec(job.settings), config)
    last: dict[str, Any] = {}

    def keep(state: State) -> None:
        last.update(digest=digest(state), curves=state.progress.curves)

    peers = Peers(rank, job.config.workers)
    Trainer(Packed.open(Path(job.packed)), config, seed=job.seed, peers=peers).run(state, keep)
    dist.destroy_process_group()
    return last


def main(job: Job) -> dict[str, Any]:
    meeting = Path(tempfile.mkdtemp()) / "meeting"
    others = []
    for rank in range(1, job.config.workers):
        child = os.fork()
        if child == 0:
            work(job, rank, meeting)
            os._exit(0)
        others.append(child)
    last = work(job, 0, meeting)
    assert [os.waitpid(child, 0)[1] for child in others] == [0] * len(others)
    return last


if __name__ == "__main__":
    print(json.dumps(main(Job.from_json(json.loads(Path(sys.argv[1]).read_text())))))
