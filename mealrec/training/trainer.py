"""Ray Train around the loop: several workers, checkpoints, restart after failures, resume by run name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mealrec.config import RayConfig, TrainConfig
from mealrec.model.settings import ModelSettings
from mealrec.training.notice import notices, stopped_by_sigterm

if TYPE_CHECKING:
    from mealrec.training.loop import State

POLL_S = 0.5
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
_ONE_IN_FLIGHT = threading.Semaphore()  # of a worker: a disk that is slower than the steps must not fill the memory


class TrainingError(RuntimeError):
    """Training failed more often than train.max_failures allows; the message carries the worker's error."""


@dataclass(frozen=True)
class Job:
    """One training run: plain values only, they travel to the workers. `name` must follow from data and settings: a run of
    the same name under the same storage resumes. initial: the folder of what it begins with (mealrec.training.warm), else fresh
    weights."""

    name: str
    storage: str
    packed: str
    settings: ModelSettings
    config: TrainConfig
    seed: int
    initial: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"config": self.config.model_dump(mode="json")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        config, settings = TrainConfig.model_validate(data["config"]), ModelSettings(**data["settings"])
        return cls(**data | {"config": config, "settings": settings})

    @property
    def folder(self) -> Path:
        """Where its checkpoints are."""
        return Path(self.storage) / self.name

    def beside(self, suffix: str) -> Path:
        """A file of this run beside that folder, for workers and driver alike."""
        return Path(self.storage) / f"{self.name}.{suffix}"


def train(job: Job, ray_config: RayConfig, say: Callable[[str], None]) -> Path:
    """Train on a Ray cluster and return the folder of the last checkpoint. Raises TrainingError, at once where
    train.device=cuda and this machine's own cluster has too few GPUs, and Stopped after a SIGTERM: the workers have then saved
    where they stood, if they could in time."""
    from mealrec.cluster import gpus, ray_cluster

    # a short run would otherwise spend most of its time waiting for the next health check
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    with (
        ray_cluster(ray_config) as own,
        _without_notices() if own else nullcontext(),
        _followed(job.beside("progress"), say),
        stopped_by_sigterm(job.beside("stop")),
    ):
        if job.config.device == "cuda":
            look_for_gpus(job.config.workers, gpus(), is_own=own, say=say)
        return _fit(job)


def look_for_gpus(workers: int, found: int, *, is_own: bool, say: Callable[[str], None]) -> None:
    """Whether a cluster with `found` GPUs has one for each of `workers`. Raises TrainingError where it is this
    machine's own, which gets no more of them; a given one may grow, so that training waits for it."""
    if found >= workers:
        return
    lacking = f"train.device=cuda asks for a GPU for each of train.workers={workers}; the Ray cluster has {found}"
    if not is_own:
        say(f"{lacking}: waiting for more")
        return
    ways_out = [
        "train.device=cpu",
        *([f"train.workers={found}"] if found else []),
        "ray.address to a cluster with more",
    ]
    raise TrainingError(f"{lacking}: set {', or '.join(ways_out)}")


@contextmanager
def _without_notices() -> Iterator[None]:
    """Nobody drains this machine's own cluster, and the actor of Ray's that would ask takes seconds to start. What the user has
    set stays."""
    is_set = WATCHER in os.environ
    os.environ.setdefault(WATCHER, "0")
    try:
        yield
    finally:
        if not is_set:
            del os.environ[WATCHER]


def _fit(job: Job) -> Path:
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = job.config.device == "cuda"
    trainer = TorchTrainer(
        _worker,
        train_loop_config=job.to_json(),
        # counts are summed on the CPU, gradients where they are; a torch without NCCL ends here and does not train on the CPU
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.config.workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 0.9} | ({"GPU": 1} if on_gpu else {}),
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=job.config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.config.keep_checkpoints),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # Ray wraps whatever a worker raised in types of its own
        raise TrainingError(f"training run {job.name} failed: {error}") from error
    if result.checkpoint is None:
        raise TrainingError(f"training run {job.name} ended without a checkpoint")
    known = {Path(held.path).name for held, _ in result.best_checkpoints or []} | {Path(result.checkpoint.path).name}
    for folder in job.folder.glob("checkpoint_*"):
        if folder.is_dir() and folder.name not in known:  # its writer was killed before Ray heard of it
            shutil.rmtree(folder)
    return Path(result.checkpoint.path)


def _worker(arguments: dict[str, Any]) -> None:
    """Runs in every worker process: resume from the newest whole checkpoint when there is one, then train to the end."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from mealrec.data.packed import Packed
    from mealrec.model.mealrec import MealRec
    from mealrec.training import warm
    from mealrec.training.loop import State, Trainer
    from mealrec.training.peers import Peers
    from mealrec.training.resume import agreed, newest_whole

    job = Job.from_json(arguments)
    config = job.config.settings(warm=job.initial is not None)
    context = ray.train.get_context()
    rank = context.get_world_rank()
    peers = Peers(rank, context.get_world_size())
    torch.set_num_threads(job.config.threads)
    device = get_device() if job.config.device == "cuda" else torch.device("cpu")

    def say(line: str) -> None:
        if rank == 0:
            _append(job.beside("progress"), line)

    resumed = ray.train.get_checkpoint()
    if resumed is not None:
        state = agreed(newest_whole(job.folder / Path(resumed.path).name, job.settings, config, say), peers)
    elif job.initial is not None:
        state = warm.begin(Path(job.initial), job.settings, config)
    else:
        torch.manual_seed(job.seed)  # every worker starts from the same weights
        state = State.fresh(MealRec(job.settings), config)

    def keep(state: State, figures: dict[str, Any]) -> None:
        _report(state, figures, job.folder if rank == 0 else None)

    if resumed is not None:
        inside = f" and {state.progress.step} steps" if state.progress.step else ""
        say(f"resumed after {state.progress.total_epochs} epochs{inside} ({state.progress.stage})")
    notice = notices(peers, job.beside("stop"), ray.train.get_preemption_info, say)
    data = Packed.open(Path(job.packed))
    Trainer(data, config, seed=job.seed, peers=peers, say=say, notice=notice, device=device).run(
        state.to(device, config),
        on_epoch=lambda state: keep(state, state.progress.curves[-1]),
        on_step=lambda state: keep(state, {"epoch": state.progress.total_epochs + 1, "step": state.progress.step}),
    )


def _report(state: State, figures: dict[str, Any], run_folder: Path | None) -> None:
    """Report figures to Ray from every worker, and a checkpoint from the one that is given the run's folder.

    What is reported is a snapshot, which a thread writes to its place in the run's folder while training goes on: half
    a checkpoint is never registered, and the run's end waits for the last one."""
    import ray.train

    from mealrec.training import checkpoint

    if run_folder is None:
        ray.train.report(figures)
        return
    _ONE_IN_FLIGHT.acquire()
    held = checkpoint.snapshot(state)

    def write(local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        del local  # an empty folder: nothing is copied from it
        try:
            checkpoint.write(held, run_folder / name)
        finally:
            _ONE_IN_FLIGHT.release()
        return ray.train.Checkpoint(str(run_folder / name))

    ray.train.report(
        figures,
        checkpoint=ray.train.Checkpoint.from_directory(tempfile.mkdtemp(prefix="mealrec-checkpoint-")),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=write,
        delete_local_checkpoint_after_upload=True,
    )


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
