"""The Ray cluster of a stage: a given one, or a local one that lives as long as the stage."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mealrec.config import RayConfig

log = logging.getLogger("mealrec.cluster")

STARTS = 3


@contextmanager
def ray_cluster(config: RayConfig) -> Iterator[bool]:
    """Connect to config.address, else to Ray's own RAY_ADDRESS (a Ray job has it), else start a local cluster on loopback and
    stop it at the end. Gives whether it is such a one of the stage's own.

    Entered while Ray is already connected (a test's cluster, a Ray job) it uses that one and leaves it running.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    before_ray_is_imported(address)
    import ray

    if ray.is_initialized():
        yield False
        return
    with _sigterm_given_back():
        if address:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        else:
            _start_local(config)
        try:
            yield not address
        finally:
            ray.shutdown()


def gpus() -> int:
    """How many GPUs the connected cluster has now."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


@contextmanager
def _sigterm_given_back() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it is initialised, and keeps it: what comes after may be a flow that wants to know."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start_local(config: RayConfig) -> None:
    """Ray gives its agents 15 s to come up, which a machine that is busy elsewhere may not manage: then it is tried again."""
    import ray

    for left in reversed(range(STARTS)):
        try:
            ray.init(
                address="local",  # else Ray joins a cluster that somebody has started on this machine
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


def before_ray_is_imported(address: str | None = None) -> None:
    """Settings that Ray reads when it is imported; what the user has set stays."""
    # quiet and private: no usage report, no progress bars of its own, and a token, so that no other user of this machine can
    # talk to the cluster
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray gives its workers a niceness of 15: beside any other busy program on the machine they would hardly run
    os.environ.setdefault("RAY_worker_niceness", "0")
    if address is not None and address.rpartition(":")[0] in ("127.0.0.1", "localhost"):
        # else Ray replaces loopback by the machine's outer address, where a cluster on loopback does not listen
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
