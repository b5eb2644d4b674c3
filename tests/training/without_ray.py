"""What a training run must end as: the plain loop in as many processes over gloo, nothing between them and torch.

    python -m tests.training.without_ray FOLDER

FOLDER/jobs.json is a list of what Job's to_json() gives. Imports once and forks for each worker. Prints a JSON list: of each
job the digest of the state after its last epoch, which is what the last checkpoint of such a run on Ray holds, and its curves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._dynamo  # torch's optimisers import it at their first step: here once, not in every fork
import torch.distributed as dist

from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.training.loop import State, Trainer
from mealrec.training.peers import Peers
from mealrec.training.trainer import Job
from tests.training.killed_run import digest

ROOT = Path(__file__).resolve().parents[2]


class End(NamedTuple):
    digest: str
    curves: list[dict[str, Any]]


def ends_of(jobs: Sequence[Job], folder: Path) -> list[End]:
    """How the jobs end, made in processes of their own; folder: theirs, made here."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps([job.to_json() for job in jobs]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.without_ray", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [End(*found) for found in json.loads(done.stdout)]


def work(job: Job, rank: int, meeting: Path) -> End:
    torch.set_num_threads(job.config.threads)
    dist.init_process_group("gloo", init_method=meeting.as_uri(), rank=rank, world_size=job.config.workers)
    torch.manual_seed(job.seed)
    config = job.config.settings()
    state = State.fresh(MealRec(job.settings), config)
    ends: list[End] = []
    peers = Peers(rank, job.config.workers)
    Trainer(Packed.open(Path(job.packed)), config, seed=job.seed, peers=peers).run(
        state, lambda state: ends.append(End(digest(state), list(state.progress.curves)))
    )
    dist.destroy_process_group()
    return ends[-1]


def end(job: Job, folder: Path) -> End:
    folder.mkdir()
    children = []
    for rank in range(job.config.workers):
        child = os.fork()
        if child == 0:
            found = work(job, rank, folder / "meeting")
            (folder / f"{rank}.json").write_text(json.dumps(found))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    every = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(job.config.workers)]
    assert every == every[:1] * job.config.workers, "the workers ended apart"
    return End(*every[0])


if __name__ == "__main__":
    own = Path(sys.argv[1])
    jobs = [Job.from_json(data) for data in json.loads((own / "jobs.json").read_text())]
    print(json.dumps([end(job, own / str(number)) for number, job in enumerate(jobs)]))
