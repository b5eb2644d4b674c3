"""What the gate is told: an older model is ranked again on newer data, and a request is timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mealrec.config import RunConfig
from mealrec.data.packed import Packed
from mealrec.evaluation.ranking import model_scorer, rank_targets
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry import promotion
from mealrec.registry.tracking import Tracker
from mealrec.serving.recommender import Recommender
from mealrec.stages.evaluate import PER_VIEWER, REPORT
from mealrec.stages.evidence import of_champion, rank_again
from mealrec.training import bundle
from tests.conftest import write_packed
from tests.stages.champion import crown


def recommender(data: Packed, folder: Path) -> Recommender:
    torch.manual_seed(0)
    model = MealRec(ModelSettings(**data.content.dims, width=16, max_history=8))
    return Recommender.load(bundle.write(model, data, folder))


def test_on_the_data_it_was_made_from_ranking_again_changes_nothing(tmp_path: Path) -> None:
    data = write_packed(tmp_path / "packed")
    model = recommender(data, tmp_path / "bundle")
    again = rank_again(model, data)
    first = rank_targets(model_scorer(model.model, model.content.gather, model.catalogue), data, "test", max_history=8)
    assert np.array_equal(again.rank, first.rank) and np.array_equal(again.viewer, first.viewer)


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal"])
def test_a_champion_of_another_protocol_is_known_by_its_old_report(
    registry_work: Path, tmp_path: Path, protocol: str
) -> None:
    data = write_packed(tmp_path / "packed")
    config = RunConfig()
    tracker = Tracker(config.registry, registry_work)
    torch.manual_seed(0)
    model = MealRec(ModelSettings(**data.content.dims, width=16, max_history=8))
    crown(tracker, bundle.write(model, data, tmp_path / "bundle"), {})
    version = promotion.get(tracker, "1")
    report = {
        "metrics": {"test": {"mealrec": {"hr@10": 1.0}}},
        "data_digest": "older",
        "slices": [],
        "beyond": {"mealrec": {"coverage": 0.5}},
        "config": {"evaluate": {"protocol": protocol}},
    }
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / REPORT).write_text(json.dumps(report))
    pq.write_table(pa.table({"user_id": ["u1", "u2"], "rank_mealrec": [1, 1]}), folder / PER_VIEWER)
    tracker.log_artifacts(version.run_id, folder, "evaluation")
    for digest in ("older", "newer"):
        found = of_champion(config, tracker, version, data, digest)
        pairs = found.data_digest == digest
        if protocol == "temporal":
            assert found.viewers == ("u1", "u2") and not pairs
        else:
            assert len(found.viewers) == (2 if digest == "older" else 40) and pairs


def test_an_older_model_never_recommends_what_it_does_not_know(tmp_path: Path) -> None:
    old = write_packed(tmp_path / "old", items=24)
    newer = write_packed(tmp_path / "new", items=30)
    ranked = rank_again(recommender(old, tmp_path / "bundle"), newer)
    unknown = ranked.target > 24
    assert unknown.any() and (ranked.rank[unknown] > 20).all()
    assert ranked.shown[25:].sum() == 0 and ranked.shown[1:25].sum() == 10 * len(ranked.viewer)
