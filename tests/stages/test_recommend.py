"""The stage `recommend` over a real MLflow store, while somebody moves the alias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mealrec.config import RunConfig
from mealrec.features.extract import write_part
from mealrec.lake import Lake, Provenance
from mealrec.model.mealrec import MealRec
from mealrec.registry.tracking import Tracker
from mealrec.schema import RECOMMENDATIONS, SEQUENCES
from mealrec.serving.recommender import Recommender
from mealrec.stages.recommend import recommend
from mealrec.training import bundle
from tests.conftest import write_packed
from tests.stages import champion
from tests.training.killed_run import settings_of


def test_an_alias_that_moves_meanwhile_gives_no_version_the_results_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_packed(tmp_path / "packed")
    bundles = []
    for seed in range(2):
        torch.manual_seed(seed)
        bundles.append(bundle.write(MealRec(settings_of(data)), data, tmp_path / str(seed)))
    config = RunConfig(lake=str(tmp_path / "lake"))
    lake = Lake(config.lake)
    write_part(lake, SEQUENCES, "bucket=0/a.parquet", [{"user_id": "u", "item_index": [1, 2, 3]}])
    lake.commit_files(SEQUENCES, ["bucket=0/a.parquet"], Provenance("sequences", "d"), mode="overwrite")
    tracker = Tracker(config.registry, lake.work)
    champion.crown(tracker, bundles[0], {})
    claim = Lake.claim

    def moved_before(lake: Lake, *arguments: Any) -> Any:
        champion.crown(tracker, bundles[1], {})
        return claim(lake, *arguments)

    monkeypatch.setattr(Lake, "claim", moved_before)
    assert recommend(config).details["model_version"] == "1"
    (row,) = lake.read(RECOMMENDATIONS).to_pylist()
    first, second = (Recommender.load(made).recommend([[1, 2, 3]], config.recommend.k) for made in bundles)
    assert row["scores"] == pytest.approx([s for s in first.scores[0].tolist() if s > float("-inf")])
    assert row["scores"] != pytest.approx([s for s in second.scores[0].tolist() if s > float("-inf")])
