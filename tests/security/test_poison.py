"""A poisoned artifact or checkpoint is refused before it runs, takes memory or is believed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mealrec.config import RegistryConfig
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry import flavour
from mealrec.registry.tracking import Tracker
from mealrec.serving.recommender import BundleError, Recommender
from mealrec.training import bundle, checkpoint
from mealrec.training.checkpoint import CheckpointError
from mealrec.training.loop import State
from mealrec.training.settings import TrainSettings
from tests.conftest import write_packed

ROOT = Path(__file__).resolve().parents[2]


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return write_packed(tmp_path_factory.mktemp("data") / "packed")


@pytest.fixture(scope="module")
def settings(data: Packed) -> ModelSettings:
    return ModelSettings(**data.content.dims, width=16, max_history=8)


@pytest.fixture(scope="module")
def good(data: Packed, settings: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return bundle.write(MealRec(settings), data, tmp_path_factory.mktemp("models") / "bundle")


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "bundle"))


def objects(path: Path, mark: Path) -> None:
    np.save(path, np.array([Bomb(mark)], dtype=object), allow_pickle=True)


def change(**settings: Any) -> Callable[[Path, Path], None]:
    def apply(folder: Path, mark: Path) -> None:
        body = json.loads((folder / "bundle.json").read_text())
        body["settings"] |= settings
        (folder / "bundle.json").write_text(json.dumps(body))

    return apply


POISONS: dict[str, Callable[[Path, Path], object]] = {
    "weights are a pickle": lambda f, m: (f / "model.safetensors").write_bytes(pickle.dumps(Bomb(m))),
    "vectors are a pickle": lambda f, m: (f / "catalogue.safetensors").write_bytes(pickle.dumps(Bomb(m))),
    "an array is a pickle": lambda f, m: (f / "visual.npy").write_bytes(pickle.dumps(Bomb(m))),
    "an array holds objects": lambda f, m: objects(f / "train_count.npy", m),
    "the weights' header claims more than there is": lambda f, m: (f / "model.safetensors").write_bytes(b"\xff" * 64),
    "a width that no memory holds": change(width=2**40),
    "a width that memory might hold": change(width=2**14),
    "negative layers": change(layers=-1),
    "layers without end": change(layers=10**9),
    "a number as text": change(width="16"),
    "videos that are not there": change(items=10**6),
    "an unknown switch": change(backbone="os.system"),
    "ids that are no list": lambda f, m: (f / "items.json").write_text('{"__reduce__": 1}'),
    "ids that are no text": lambda f, m: (f / "items.json").write_text(json.dumps([1] * 30)),
    "settings that are none": lambda f, m: (f / "bundle.json").write_text('{"format": 2, "settings": [1]}'),
    "no object at all": lambda f, m: (f / "bundle.json").write_text("[]"),
    "vectors of another catalogue": lambda f, m: shutil.copy(f / "model.safetensors", f / "catalogue.safetensors"),
}


@pytest.mark.parametrize("poison", POISONS)
def test_a_poisoned_bundle_is_refused(poison: str, copy: Path, tmp_path: Path) -> None:
    Recommender.load(copy)
    POISONS[poison](copy, tmp_path / "it ran")
    with pytest.raises(BundleError, match="bundle"):
        Recommender.load(copy)
    assert not (tmp_path / "it ran").exists()


def test_a_packed_dataset_of_objects_is_refused(data: Packed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data.root, tmp_path / "packed"))
    objects(folder / "sequence.npy", tmp_path / "it ran")
    with pytest.raises(ValueError, match="objects"):
        Packed.open(folder)
    assert not (tmp_path / "it ran").exists()


def saved(settings: ModelSettings, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    checkpoint.save(State.fresh(MealRec(settings), TrainSettings()), folder)
    return folder


@pytest.mark.parametrize(
    ("file", "poison", "words"),
    [
        ("state.safetensors", b"\x80\x04.", "not the file"),
        ("state.json", b"\x80\x04.", "not a whole checkpoint"),
        ("state.json", b"[]", "names no format"),
        ("state.json", b'{"format": 4, "settings": 7}', "other model settings"),
    ],
)
def test_a_poisoned_checkpoint_is_refused(
    file: str, poison: bytes, words: str, settings: ModelSettings, tmp_path: Path
) -> None:
    folder = saved(settings, tmp_path / "one", 0)
    (folder / file).write_bytes(poison)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(folder, settings, TrainSettings())


def test_a_checkpoint_with_the_weights_of_another_is_refused(settings: ModelSettings, tmp_path: Path) -> None:
    one, other = saved(settings, tmp_path / "one", 0), saved(settings, tmp_path / "other", 1)
    checkpoint.load(one, settings, TrainSettings())
    shutil.copy(other / "state.safetensors", one / "state.safetensors")
    with pytest.raises(CheckpointError, match=r"not the file that state\.json was written for"):
        checkpoint.load(one, settings, TrainSettings())


LOG_A_PICKLE = """
import sys
import mlflow
from mlflow.pyfunc import PythonModel
from pathlib import Path
class Model(PythonModel):
    def __reduce__(self):
        return (Path.touch, (Path(sys.argv[2]),))
    def predict(self, context, model_input: list[str], params=None):
        return model_input
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("mealrec")
with mlflow.start_run():
    print(mlflow.pyfunc.log_model(name="model", python_model=Model(), pip_requirements=[]).model_uri)
"""


def test_a_registered_model_that_is_a_pickle_is_refused_whatever_the_environment_says(tmp_path: Path) -> None:
    tracker, mark = Tracker(RegistryConfig(), tmp_path), tmp_path / "it ran"
    allowed = dict(os.environ) | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true", "PYTHONPATH": str(ROOT)}
    logged = subprocess.run(
        [sys.executable, "-c", LOG_A_PICKLE, tracker.uri, str(mark)],
        env=allowed,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    uri = logged.stdout.strip().splitlines()[-1]
    mark.unlink(missing_ok=True)
    code = (
        "import sys; from pathlib import Path\n"
        "from mealrec.config import RegistryConfig\n"
        "from mealrec.registry import flavour; from mealrec.registry.tracking import Tracker\n"
        "flavour.load(Tracker(RegistryConfig(), Path(sys.argv[1])), sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), uri],
        env=allowed,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0 and "pickle" in done.stderr.lower(), done.stderr[-2000:]
    assert not mark.exists()
    with pytest.raises(Exception, match=r"(?i)pickle"):
        flavour.load(tracker, uri)
    assert not mark.exists()
