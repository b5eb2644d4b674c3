"""The Ray cluster of a stage: a given one, or a local one that lives as long as the stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mealrec.config import RayConfig

log = logging.getLogger("mealrec.cluster")

STARTS = 3


@contextmanager
def ray_cluster(config: RayConfig) -> Iterator[None]:
    """Connect to config.address, or start a local cluster on loopback and stop it at the end.

    Entered while Ray is already connected (a test's cluster, a Ray job) it uses that one and leaves it running.
    """
    # before Ray is imported: it reads some of these then. Quiet and private: no usage report, no progress bars of its own,
    # and a token, so that no other user of this machine can talk to the cluster
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray gives its workers a niceness of 15: beside any other busy program on the machine they would hardly run
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if config.address:
        ray.init(address=config.address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        _start_local(config)
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(config: RayConfig) -> None:
    """Ray gives its agents 15 s to come up, which a machine that is busy elsewhere may not manage: then it is tried again."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(
                num_cpus=config.num_cpus,
                object_store_memory=config.object_store_mb * 2**20,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
            )
            return
        except Exception as error:  # Ray raises just that
            if not left or "timed out during startup" not in str(error):
                raise
            log.warning("the local Ray cluster did not start in time; %d tries left", left)
            ray.shutdown()
