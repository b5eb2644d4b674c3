"""Tracking, the model flavour and promotion against a real MLflow store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from mealrec.config import RegistryConfig
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry import flavour, promotion
from mealrec.registry.tracking import EVALUATED_TAG, Tracker
from mealrec.serving.recommender import BundleError, Recommender
from mealrec.training import bundle
from tests.conftest import write_packed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return write_packed(tmp_path_factory.mktemp("data") / "packed")


@pytest.fixture(scope="module")
def model_folder(data: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = MealRec(ModelSettings(**data.content.dims, width=16, max_history=8))
    (data.root / "meta.json").write_text(json.dumps({"held_out": 2, "tokens": "frames", "versions": {}}))
    return bundle.write(model, data, tmp_path_factory.mktemp("models") / "bundle")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(RegistryConfig(), tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def uri_and_run(tracker: Tracker, model_folder: Path) -> tuple[str, str]:
    run = tracker.start("train", "digest", "a run")
    return flavour.log_model(tracker, run, model_folder), run


def test_a_run_is_found_by_its_digest_once_it_is_finished(tracker: Tracker) -> None:
    left = tracker.start("evaluate", "d1", "killed")
    run = tracker.start("evaluate", "d1", "second")
    assert tracker.client.get_run(left).info.status == "KILLED"
    assert tracker.find("evaluate", "d1") is None
    tracker.log_params(run, {"train": {"lr": 0.1}, "uri": "postgresql://me:secret@host/db", "long": "x" * 1000})
    tracker.log_metrics(run, {"hr@10": 0.5}, step=1, timestamp_ms=0)
    tracker.log_inputs(run, {"sequences": 3}, "/lake")
    tracker.finish(run)
    found = tracker.find("evaluate", "d1")
    assert found is not None and found.run_id == run and found.metrics == {"hr_at_10": 0.5}
    assert found.tags["mealrec.version.sequences"] == "3"
    params = tracker.client.get_run(run).data.params
    assert params["train.lr"] == "0.1" and "secret" not in str(params) and len(params["long"]) == 500
    assert tracker.client.get_run(run).inputs.dataset_inputs[0].dataset.name == "sequences@3"
    assert tracker.find("evaluate", "d2") is None


def test_a_model_that_can_not_be_logged_leaves_the_finished_run_as_it_was(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.start("train", "d3", "trained")
    tracker.finish(run)
    with pytest.raises(MlflowException, match="No such artifact: 'gone'"):
        flavour.log_model(tracker, run, tmp_path / "gone")
    found = tracker.find("train", "d3")
    assert found is not None and found.run_id == run


def test_a_model_lies_where_its_runs_experiment_keeps_its_artifacts(
    tracker: Tracker, uri_and_run: tuple[str, str]
) -> None:
    uri, run = uri_and_run
    model = tracker.client.get_logged_model(uri.removeprefix("models:/"))
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    assert (model.experiment_id, model.source_run_id) == (tracker.experiment_id, run)
    assert model.artifact_location.startswith(experiment.artifact_location)


def test_the_registered_model_loads_and_predicts_in_a_process_of_its_own(
    tracker: Tracker, uri_and_run: tuple[str, str]
) -> None:
    uri, run = uri_and_run
    version = promotion.register(tracker, uri, run, {EVALUATED_TAG: "own-process"})
    code = (
        "import sys, json, mlflow, pandas as pd\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "model = mlflow.pyfunc.load_model(sys.argv[2])\n"
        "frame = pd.DataFrame({'history': [json.dumps(['v1', 'v2', 'nobody']), '[]'], 'k': [5, 5]})\n"
        "print(model.predict(frame).to_json(orient='records'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tracker.uri, f"models:/mealrec/{version.version}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    first, empty = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(first["video_ids"]) == 5 and not {"v1", "v2"} & set(first["video_ids"])
    assert first["unknown"] == 1 and first["scores"] == sorted(first["scores"], reverse=True)
    assert len(empty["video_ids"]) == 5 and empty["unknown"] == 0


def test_no_pickle_is_anywhere_in_the_logged_model(
    tracker: Tracker, uri_and_run: tuple[str, str], tmp_path: Path
) -> None:
    folder = flavour.bundle_of(tracker, uri_and_run[0], tmp_path).parent
    names = [p.name for p in folder.parent.rglob("*") if p.is_file()]
    assert "model.safetensors" in names
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))]


def test_a_wrong_request_is_refused_with_what_is_wrong(tracker: Tracker, uri_and_run: tuple[str, str]) -> None:
    model = flavour.load(tracker, uri_and_run[0]).unwrap_python_model()
    import pandas as pd

    with pytest.raises(ValueError, match="column 'history' is missing"):
        model.predict(None, pd.DataFrame({"viewer": ["u1"]}))
    with pytest.raises(ValueError, match="row 0: history must be a list"):
        model.predict(None, pd.DataFrame({"history": ["not json"]}))
    with pytest.raises(ValueError, match=r"k must be in 1\.\.1000, got 0"):
        model.predict(None, pd.DataFrame({"history": ["[]"], "k": [0]}))


def test_recommendations_leave_out_what_was_seen_and_break_ties_by_index(model_folder: Path, data: Packed) -> None:
    recommender = Recommender.load(model_folder)
    found = recommender.recommend([[1, 2, 3], []], 30)
    assert not {1, 2, 3} & set(found.item_index[0].tolist())
    assert (found.item_index[0] == 0).sum() == 3 and np.isneginf(found.scores[0, -3:]).all()
    counts = data.content.train_count().tolist()
    popular = sorted(range(1, data.items + 1), key=lambda i: (-counts[i], i))
    assert found.item_index[1].tolist() == popular
    assert recommender.recommend([[1, 2]], 5, exclude_seen=False).item_index.shape == (1, 5)
    with_frames = [i for i in range(1, 31) if bool(data.content.arrays["frame_mask"][i].any())]
    moment = dict(zip(found.item_index[1].tolist(), found.moments_ms[1].tolist(), strict=True))
    assert all((moment[i] >= 0) == (i in with_frames) for i in moment)


def test_a_poisoned_or_partial_bundle_is_refused(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "bundle"
    shutil.copytree(model_folder, copy)
    (copy / "model.safetensors").write_bytes(b"\x80\x04\x95cos\nsystem\n")
    with pytest.raises(BundleError, match="no whole model bundle"):
        Recommender.load(copy)
    with pytest.raises(BundleError):
        Recommender.load(tmp_path / "nowhere")
