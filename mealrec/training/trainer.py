"""Ray Train around the loop: several workers (gloo on CPU), checkpoints, restart after failures, resume by run name."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mealrec.config import RayConfig, TrainConfig
from mealrec.model.settings import ModelSettings

POLL_S = 0.5


class TrainingError(RuntimeError):
    """Training failed more often than train.max_failures allows; the message carries the worker's error."""


@dataclass(frozen=True)
class Job:
    """One training run: plain values only, they travel to the workers. `name` must follow from data and settings: a run of
    the same name under the same storage resumes."""

    name: str
    storage: str
    packed: str
    settings: ModelSettings
    config: TrainConfig
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"config": self.config.model_dump(mode="json")}


def train(job: Job, ray_config: RayConfig, say: Callable[[str], None]) -> Path:
    """Train on a Ray cluster and return the folder of the last checkpoint. Raises TrainingError."""
    from mealrec.cluster import ray_cluster

    # a short run would otherwise spend most of its time waiting for the next health check
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    with ray_cluster(ray_config), _followed(_progress_file(job), say):
        return _fit(job)


def _fit(job: Job) -> Path:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _worker,
        train_loop_config=job.to_json(),
        scaling_config=ScalingConfig(num_workers=job.config.workers, resources_per_worker={"CPU": 0.9}),
        run_config=RunConfig(
            name=job.name,
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=job.config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # Ray wraps whatever a worker raised in types of its own
        raise TrainingError(f"training run {job.name} failed: {error}") from error
    if result.checkpoint is None:
        raise TrainingError(f"training run {job.name} ended without a checkpoint")
    return Path(result.checkpoint.path)


def _worker(arguments: dict[str, Any]) -> None:
    """Runs in every worker process: resume from the newest checkpoint when there is one, then train to the end."""
    import ray.train
    import torch

    from mealrec.data.packed import Packed
    from mealrec.model.mealrec import MealRec
    from mealrec.training import checkpoint
    from mealrec.training.loop import State, Trainer
    from mealrec.training.peers import Peers

    config = TrainConfig.model_validate(arguments["config"])
    settings = ModelSettings(**arguments["settings"])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    torch.set_num_threads(config.threads)
    resumed = ray.train.get_checkpoint()
    if resumed is None:
        torch.manual_seed(arguments["seed"])  # every worker starts from the same weights
        state = State.fresh(MealRec(settings), config.settings())
    else:
        with resumed.as_directory() as folder:
            state = checkpoint.load(Path(folder), settings, config.settings())

    def say(line: str) -> None:
        if rank == 0:
            _append(Path(arguments["storage"]) / f"{arguments['name']}.progress", line)

    def on_epoch(state: State) -> None:
        entry = state.progress.curves[-1]
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                checkpoint.save(state, Path(folder))
            held = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
            ray.train.report(entry, checkpoint=held)

    if resumed is not None:
        say(f"resumed after {state.progress.total_epochs} epochs ({state.progress.stage})")
    peers = Peers(rank, context.get_world_size())
    Trainer(
        Packed.open(Path(arguments["packed"])), config.settings(), seed=arguments["seed"], peers=peers, say=say
    ).run(state, on_epoch)


def _progress_file(job: Job) -> Path:
    return Path(job.storage) / f"{job.name}.progress"


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def _followed(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Pass the workers' progress lines on as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = path.stat().st_size if path.exists() else 0
    done = threading.Event()

    def follow() -> None:
        at = start
        while True:
            finished = done.wait(POLL_S)
            if path.exists():
                with path.open() as file:
                    file.seek(at)
                    for line in iter(file.readline, ""):
                        say(json.loads(line))
                    at = file.tell()
            if finished:
                return

    # in the caller's context: a logging handler may want to know whose run this is
    thread = threading.Thread(target=copy_context().run, args=(follow,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
