"""Training on a GPU: who has one, and that a whole run's state goes there. What needs the GPU itself is skipped without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from mealrec.config import RayConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.training import checkpoint
from mealrec.training.loop import State, Trainer
from mealrec.training.trainer import Job, TrainingError, look_for_gpus, train
from tests.training.killed_run import CONFIG, SEED, fresh, settings_of


def tensors_of(state: State) -> list[torch.Tensor]:
    moments = [value for held in state.optimiser.state.values() for value in held.values()]
    networks = [tensor for network in (state.model, state.teacher) for tensor in network.state_dict().values()]
    assert moments and state.pooled is not None
    return [*networks, *state.best.values(), *moments, state.pooled]


def inside_a_joint_epoch(packed: Packed, device: str = "cpu") -> State:
    """A state with moments and pooled tokens."""
    held: list[State] = []

    class Enough(Exception):
        pass

    def look(state: State) -> None:
        if state.pooled is not None:
            held.append(state)
            raise Enough

    with pytest.raises(Enough):
        Trainer(packed, CONFIG, seed=SEED, device=device).run(
            fresh(packed).to(torch.device(device), CONFIG), on_step=look
        )
    return held[0]


def test_all_of_a_state_goes_to_the_device(packed: Packed) -> None:
    state = inside_a_joint_epoch(packed)
    assert {tensor.device.type for tensor in tensors_of(state)} == {"cpu"}
    assert {tensor.device.type for tensor in tensors_of(state.to(torch.device("meta"), CONFIG))} == {"meta"}


def test_too_few_gpus_are_refused_where_no_more_will_come() -> None:
    said: list[str] = []
    with pytest.raises(
        TrainingError, match=r"train.workers=2; the Ray cluster has 0: set train.device=cpu, or ray.address"
    ):
        look_for_gpus(2, 0, is_own=True, say=said.append)
    with pytest.raises(TrainingError, match=r"the Ray cluster has 1: set train.device=cpu, or train.workers=1, or"):
        look_for_gpus(2, 1, is_own=True, say=said.append)
    assert not said
    look_for_gpus(2, 0, is_own=False, say=said.append)
    assert len(said) == 1 and said[0].endswith("waiting for more")
    look_for_gpus(2, 2, is_own=True, say=said.append)
    assert len(said) == 1


@pytest.mark.night
@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a torch that finds no GPU")
def test_a_torch_for_cpus_alone_does_not_train_beside_an_idle_gpu(packed: Packed, tmp_path: Path) -> None:
    """Ray is told of a GPU that is not there: so a node with one looks to a torch for CPUs alone."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        config = TrainConfig(workers=1, device="cuda", warmup_epochs=1, joint_epochs=1, max_failures=0)
        job = Job("run", str(tmp_path), str(packed.root), settings_of(packed), config, seed=3)
        with pytest.raises(TrainingError, match="NCCL"):
            train(job, RayConfig(), lambda line: None)
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_run_on_a_gpu_goes_on_from_its_checkpoint_on_a_cpu(packed: Packed, tmp_path: Path) -> None:
    state = inside_a_joint_epoch(packed, "cuda")
    checkpoint.save(state, tmp_path / "last")
    loaded = checkpoint.load(tmp_path / "last", settings_of(packed), CONFIG)
    assert {tensor.device.type for tensor in tensors_of(loaded)} == {"cpu"}
    Trainer(packed, CONFIG, seed=SEED).run(loaded)
    assert loaded.progress.finished
