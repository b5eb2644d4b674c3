"""Fixtures that several rooms share: where real data lies, and a small packed dataset made from nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from mealrec.cluster import before_ray_is_imported
from mealrec.data.packed import Packed, save_user_ids, training_part
from mealrec.data.split import leave_one_out
from tests.small_world import run

before_ray_is_imported()  # some test modules import Ray at their top, and it reads its settings then, once a process

LONGEST = ("tests/flows/", "tests/features/", "tests/training/", "tests/integration/", "tests/registry/test_race")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files start first, so that all processes end at about the same time."""
    order = {prefix: place for place, prefix in enumerate(LONGEST)}
    items.sort(key=lambda item: min((order[p] for p in LONGEST if item.nodeid.startswith(p)), default=len(LONGEST)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; tests that need it skip where it is absent."""
    folder = os.environ.get("MEALREC_DATA")
    if not folder:
        pytest.skip("MEALREC_DATA is not set: no real data here")
    return Path(folder)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(lake, summary) of one small run, shared by all test processes: whoever comes first makes it. Read it, don't write."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small-world"
    lake, done = shared / "lake", shared / "summary.json"
    with FileLock(f"{shared}.lock"):
        if not done.is_file():
            summary = run(lake)
            done.write_text(json.dumps(summary))
    return lake, json.loads(done.read_text())


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables without a row in them. Making them takes seconds, a copy nothing."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def registry_work(empty_store: Path, tmp_path: Path) -> Path:
    """A work folder with a store of its own, for a Tracker."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(empty_store, work)
    return work


def write_packed(
    folder: Path, *, viewers: int = 40, items: int = 30, frames: int = 4, widths: tuple[int, int, int] = (6, 5, 7)
) -> Packed:
    """A packed dataset with random content and noisy cyclic sequences (i is followed by i + 1); some videos lack modalities."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for _ in range(viewers):
        start, length = int(rng.integers(items)), int(rng.integers(4, 12))
        steps = np.unique((start + np.arange(length)) % items + 1, return_index=True)
        rows.append(steps[0][np.argsort(steps[1])])
    sequence = np.concatenate(rows).astype(np.int64)
    offsets = np.cumsum([0, *[len(r) for r in rows]]).astype(np.int64)
    mask = np.zeros((items + 1, frames), dtype=bool)
    for item in range(1, items + 1):
        mask[item, : rng.integers(1, frames + 1)] = True
    available = np.ones((items + 1, 3), dtype=bool)
    available[0] = False
    available[3, 1] = False  # no sound
    available[4, 2] = False  # no title
    available[5], mask[5] = False, False  # nothing at all: known by its ID alone
    arrays = {
        "visual": rng.normal(size=(items + 1, frames, widths[0])).astype(np.float16),
        "audio": rng.normal(size=(items + 1, frames, widths[1])).astype(np.float16),
        "text": rng.normal(size=(items + 1, widths[2])).astype(np.float16),
        "position": np.tile(np.arange(frames) / frames, (items + 1, 1)).astype(np.float32),
        "times": np.where(mask, np.arange(frames) * 500, -1).astype(np.int64),
        "frame_mask": mask,
        "available": available,
        "train_count": np.bincount(training_part(sequence, offsets, leave_one_out(offsets))[0], minlength=items + 1),
        "sequence": sequence,
        "offsets": offsets,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    save_user_ids(folder, [f"u{n}" for n in range(viewers)])
    (folder / "items.json").write_text(json.dumps([f"v{n}" for n in range(1, items + 1)]))
    (folder / "meta.json").write_text(json.dumps({"held_out": 2, "tokens": "frames", "versions": {}}))
    return Packed.open(folder)


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return write_packed(tmp_path / "packed")
