"""What the gate is told: an older model is ranked again on newer data, and a request is timed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mealrec.data.packed import Packed
from mealrec.evaluation.ranking import model_scorer, rank_targets
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.serving.recommender import Recommender
from mealrec.stages.evidence import rank_again
from mealrec.training import bundle
from tests.conftest import write_packed


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


def test_an_older_model_never_recommends_what_it_does_not_know(tmp_path: Path) -> None:
    old = write_packed(tmp_path / "old", items=24)
    newer = write_packed(tmp_path / "new", items=30)
    ranked = rank_again(recommender(old, tmp_path / "bundle"), newer)
    unknown = ranked.target > 24
    assert unknown.any() and (ranked.rank[unknown] > 20).all()
    assert ranked.shown[25:].sum() == 0 and ranked.shown[1:25].sum() == 10 * len(ranked.viewer)
