"""A node that is taken away after a notice, as spot machines are: nothing of the epoch is lost, and the end is the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mealrec.cluster import before_ray_is_imported, ray_cluster
from mealrec.config import RayConfig, TrainConfig
from mealrec.training import checkpoint
from mealrec.training.trainer import Job, train
from tests.conftest import write_packed
from tests.integration.servers import until
from tests.training.killed_run import digest, settings_of
from tests.training.without_ray import ends_of

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.night, pytest.mark.ray]

# no checkpoint inside an epoch but the one that is asked for
CONFIG = TrainConfig(workers=2, warmup_epochs=2, joint_epochs=1, batch_size=1, lr=5e-3, checkpoint_steps=0)
SMALL = {"num_cpus": CONFIG.workers, "object_store_memory": 80 * 2**20, "include_dashboard": False}
DEADLINE_S = 60.0


class TwoNodes:
    """A head that is kept busy, so that the workers are on the other node until that one is lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=SMALL)
        self.config = RayConfig(address=self.cluster.address)

    def take_the_head(self) -> None:
        self.held = ray.util.placement_group([{"CPU": CONFIG.workers}])
        ray.get(self.held.ready())
        self.doomed = self.cluster.add_node(**SMALL)

    def announce(self) -> None:
        """What a cloud's notice becomes in Ray: the node drains until the deadline."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        at_ms = int((time.time() + DEADLINE_S) * 1000)
        is_accepted, why = GcsClient(address=self.cluster.address).drain_node(
            self.doomed.node_id, reason, "the test takes it away", at_ms
        )
        assert is_accepted, why

    def lose_the_node(self) -> None:
        ray.util.remove_placement_group(self.held)
        self.cluster.remove_node(self.doomed, allow_graceful=False)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.2")
    before_ray_is_imported("127.0.0.1:0")
    nodes = TwoNodes()
    try:
        with ray_cluster(nodes.config):
            nodes.take_the_head()
            yield nodes
    finally:
        nodes.cluster.shutdown()


def test_a_node_that_is_taken_away_costs_no_step_and_changes_nothing(nodes: TwoNodes, tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "packed", viewers=120)
    job, said = Job("run", str(tmp_path), str(packed.root), settings_of(packed), CONFIG, seed=3), list[str]()

    def is_registered() -> bool:
        held = job.folder / "checkpoint_manager_snapshot.json"
        return held.is_file() and '"step"' in held.read_text()

    def take_away() -> None:
        until(lambda: any("epoch 1/" in line for line in said), "an epoch", every_s=0.05)
        nodes.announce()
        try:
            until(is_registered, "a checkpoint before the deadline", DEADLINE_S, every_s=0.05)
        finally:
            nodes.lose_the_node()

    taker = threading.Thread(target=take_away)
    taker.start()
    last = train(job, nodes.config, said.append)
    taker.join()
    resumed = [line for line in said if line.startswith("resumed after")]
    assert len(resumed) == 1 and "steps" in resumed[0], said
    end = digest(checkpoint.load(last, job.settings, CONFIG.settings()))
    assert end == ends_of([job], tmp_path / "whole")[0].digest
