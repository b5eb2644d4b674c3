"""What is compared: the best baseline chosen on validation, plug-ins, conditions, and what is kept without ranks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mealrec.bench.cell import complete_settings
from mealrec.bench.compare import best_baseline, compare_all, values_by_seed
from mealrec.bench.results import Cell, Results
from mealrec.bench.rows import OFF, row


def put(
    results: Results, model: str, valid: float, test_rank: int, variant: str = "", *, seed: int = 0, digest: str = "d"
) -> None:
    metrics = {"valid": {"ndcg@10": valid}, "test": {"hr@10": 0.1, "ndcg@10": 0.1, "mrr@10": 0.1}}
    cell = Cell("food", model, seed, variant, "leave-one-out", {}, digest, metrics)
    results.put(cell, np.full(20, test_rank, dtype=np.int32))


def test_the_best_baseline_is_chosen_on_validation(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    put(results, "mealrec", 0.3, 1)
    put(results, "sasrec", 0.2, 9)
    put(results, "markov", 0.1, 1)  # better on test, and not to be known
    assert best_baseline(results, "food", ["sasrec", "markov", "absent"]) == "sasrec"
    found = compare_all(results, ["sasrec", "markov"])
    marked = {c["against"]: c["best_baseline"] for c in found if c["kind"] == "difference"}
    assert marked == {"sasrec": True, "markov": False}
    assert next(c for c in found if c["against"] == "markov" and c["metric"] == "ndcg@10")["mean"] == 0.0


def test_what_a_model_keeps_is_compared_with_the_same_models_clean_score(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    for model, rank in (("mealrec", 5), ("sasrec", 50)):
        put(results, model, 0.1, 1)
        put(results, model, 0.1, rank, "replace=0.3")
    kept = {c["model"]: c for c in compare_all(results, ["sasrec"]) if c["kind"] == "retention"}
    assert kept["mealrec"]["mean"] == 1.0 and kept["sasrec"]["mean"] == 0.0
    assert kept["sasrec"]["system_keeps_more"]["mean"] == 1.0 and kept["mealrec"]["system_keeps_more"] is None


def test_a_checkout_without_ranks_keeps_what_is_stored_until_its_cells_change(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    put(results, "mealrec", 0.3, 1)
    put(results, "sasrec", 0.2, 9)
    results.set_comparisons(compare_all(results, ["sasrec"]))
    stored = Results.open(tmp_path / "r.json").body["comparisons"]
    shutil.rmtree(tmp_path / "r.ranks")
    put(results, "markov", 0.1, 5)
    results.set_comparisons(compare_all(results, ["sasrec", "markov"]))
    assert [c["kind"] for c in stored] == ["backbone", "difference", "difference"]
    assert Results.open(tmp_path / "r.json").body["comparisons"] == stored
    put(results, "sasrec", 0.4, 2, digest="other")  # what is stored is of the cell before
    assert compare_all(results, ["sasrec", "markov"]) == []


def test_plug_ins_are_compared_with_the_plain_backbone_with_content_and_with_all_but_themselves(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    for off, rank in zip(OFF, (50, 5, 3), strict=True):
        put(results, f"gru4rec{off}", 0.1, rank)
    for model, rank in (("gru4rec+mealrec", 1), ("sasrec+content+backwards", 3), ("mealrec", 1)):
        put(results, model, 0.1, rank)
    found = {c["against"]: c["mean"] for c in compare_all(results, []) if c["kind"] == "backbone"}
    assert set(found) == {"gru4rec", "gru4rec+content", "gru4rec+content+backwards", "sasrec+content+backwards"}
    assert found["gru4rec"] > found["gru4rec+content"] > found["gru4rec+content+backwards"] > 0


def test_what_plug_ins_keep_of_a_disturbed_history_is_compared_with_the_same_backbone_without_them(
    tmp_path: Path,
) -> None:
    results = Results.open(tmp_path / "r.json")
    for model, rank in (("gru4rec+content+backwards", 50), ("gru4rec+mealrec", 5), ("gru4rec+content", 5)):
        put(results, model, 0.1, 1)
        put(results, model, 0.1, rank, "replace=0.3")
    found = {c["against"]: c for c in compare_all(results, []) if c["kind"] == "backbone kept"}
    assert {against: c["mean"] for against, c in found.items()} == {
        "gru4rec+content+backwards": 1.0,
        "gru4rec+content": 0.0,
    }
    assert {(c["model"], c["backbone"], c["variant"]) for c in found.values()} == {
        ("gru4rec+mealrec", "gru4rec", "replace=0.3")
    }


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec", "bert4rec", "nextitnet"])
def test_the_nearest_row_that_plug_ins_are_compared_with_lacks_nothing_but_them(backbone: str) -> None:
    on = "mealrec" if backbone == "sasrec" else f"{backbone}+mealrec"
    with_it, without = (complete_settings(row(name), {}, "food") for name in (on, f"{backbone}{OFF[-1]}"))
    assert without == with_it | {"tcd": "mean", "npd": "off"}


def test_retention_pairs_by_seed(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    put(results, "mealrec", 0.1, 50, seed=0)  # never hit, and never disturbed
    put(results, "mealrec", 0.1, 1, seed=1)
    put(results, "mealrec", 0.1, 5, "replace=0.3", seed=1)
    put(results, "mealrec", 0.1, 5, "replace=0.3", seed=2)
    (kept,) = [c for c in compare_all(results, []) if c["kind"] == "retention"]
    assert kept["mean"] == 1.0


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    put(results, "mealrec", 0.1, 1)
    with pytest.raises(ValueError, match="valid: ndcg@10, hr@10"):
        values_by_seed(results, "food", "mealrec", "mrr@10")
