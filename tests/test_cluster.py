"""Which Ray cluster a stage uses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CODE = """
import signal

from mealrec.cluster import ray_cluster
from mealrec.config import RayConfig

with ray_cluster(RayConfig(num_cpus=1, object_store_mb=80)):
    import ray

    print("CPUs", ray.cluster_resources()["CPU"])
    print("taken", signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
print("given back", signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_local_cluster_is_the_stages_own_also_where_somebody_elses_runs_on_the_machine() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: Ray's socket paths may not be long
        known = Path(folder) / "ray" / "ray_current_cluster"  # what `ray start` leaves for those who come after it
        known.parent.mkdir()
        known.write_text("127.0.0.1:1")
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment | {"RAY_TMPDIR": folder},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0 and "CPUs 1.0" in done.stdout, done.stderr[-2000:]
    assert "taken True\ngiven back True" in done.stdout, "SIGTERM is Ray's as long as its cluster is there"
