"""What `bench report` prints of a tiny result file, to the character, and where it puts it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mealrec.bench.conditions import SHARES
from mealrec.bench.plots import span
from mealrec.bench.report import NEVER_SEEN, tables, update, write_plots
from mealrec.bench.results import Cell, Results, ResultsError

HEAD = (
    "| model | HR@10 | NDCG@10 | MRR@10 | valid NDCG@10 | HR@10, target never seen | coverage | seeds | s a run "
    "| NDCG@10 of mealrec minus this |"
)


def put(results: Results, model: str, ndcg: float, seed: int = 0, *, hr: float = 0.5, variant: str = "") -> None:
    results.put(
        Cell(
            "food",
            model,
            seed,
            variant,
            "leave-one-out",
            {},
            "d",
            {"valid": {"ndcg@10": ndcg + 0.1}, "test": {"hr@10": hr, "ndcg@10": ndcg, "mrr@10": 0.125}},
            slices={NEVER_SEEN: {"viewers": 4.0, "hr@10": 0.25, "ndcg@10": 0.1}},
            beyond={"coverage": 0.75},
            seconds=12.4,
        ),
        np.full(8, 3, dtype=np.int32),
    )


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results.open(tmp_path / "r.json")
    put(made, "popularity", 0.1)
    put(made, "markov", 0.05)
    put(made, "mealrec", 0.2, 0)
    put(made, "mealrec", 0.3, 1)
    made.set_comparisons(
        [
            {
                "kind": "difference",
                "dataset": "food",
                "model": "mealrec",
                "against": "markov",
                "metric": "ndcg@10",
                "mean": 0.2,
                "low": 0.1,
                "high": 0.3,
                "relative": 4.0,
                "seeds": [2, 1],
                "best_baseline": True,
            }
        ]
    )
    return made


def test_the_quality_table_is_this_text(results: Results) -> None:
    assert tables([results])["quality-food"].splitlines() == [
        HEAD,
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
        "| popularity | .5000 | .1000 | .1250 | .2000 | .2500 | 0.75 | 1 | 12 |  |",
        "| markov † (implemented, not competitive) | .5000 | .0500 | .1250 | .1500 | .2500 | 0.75 | 1 | 12 "
        "| +0.2000 [+0.1000, +0.3000] (+400.0%) |",
        "| **mealrec** | .5000 ± .0000 | .2500 ± .0707 | .1250 ± .0000 | .3500 ± .0707 | .2500 ± .0000 | 0.75 | 2 | 12 |  |",
    ]


def test_the_robustness_table_is_this_text(results: Results) -> None:
    for share, hr in ((0.1, 0.4), (0.2, 0.3), (0.3, 0.25), (0.4, 0.2), (0.5, 0.1)):
        put(results, "mealrec", 0.1, hr=hr, variant=f"replace={share}")
    assert tables([results])["robustness-food"].splitlines()[-1] == (
        "| mealrec | 0.5000 | 0.4000 | 0.3000 | 0.2500 | 0.2000 | 0.1000 |  |  |  |  |"
    )


def test_the_table_of_backbones_has_a_row_for_each_that_lacks_the_plug_ins(results: Results) -> None:
    for model in ("sasrec+content+backwards", "gru4rec+content", "gru4rec+content+backwards", "gru4rec+mealrec"):
        put(results, model, 0.1)
    known = results.body["comparisons"][0] | {"against": "sasrec+content+backwards", "mean": -0.01}
    names = {
        "dataset": "food",
        "backbone": "gru4rec",
        "model": "gru4rec+mealrec",
        "against": "gru4rec+content+backwards",
    }
    kept = {"kind": "backbone kept", "variant": "replace=0.3", **names, "mean": 0.1, "low": 0.05, "high": 0.15}
    own = {"kind": "retention", "dataset": "food", "model": "sasrec+content+backwards", "variant": "replace=0.3"}
    more = {"mean": 0.2, "low": 0.1, "high": 0.3}
    results.set_comparisons([known, kept, own | {"system_keeps_more": more}])
    assert tables([results])["backbones-food"].splitlines()[2:] == [
        "| sasrec+content+backwards | .5000 | .5000 ± .0000 | .1000 | .2500 ± .0707 "
        "| -0.0100 [+0.1000, +0.3000] (+400.0%) | +0.200 [+0.100, +0.300] |",
        "| gru4rec+content | .5000 | .5000 | .1000 | .1000 |  |  |",
        "| gru4rec+content+backwards | .5000 | .5000 | .1000 | .1000 |  | +0.100 [+0.050, +0.150] |",
    ]


def test_a_table_goes_between_its_markers_and_nothing_else_changes() -> None:
    text = "a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n"
    assert update(text, {"x": "| new |"}, "README.md") == "a\n<!-- bench:x -->\n| new |\n<!-- /bench:x -->\nb\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- bench:y --> <!-- /bench:y -->", "README.md: no result file fills the marker bench:y; there are x"),
        ("<!-- bench:x -->", "README.md: the marker bench:x is not closed"),
        ("<!-- /bench:x --> <!-- bench:x -->", "README.md: the marker bench:x is not closed"),
    ],
)
def test_a_wrong_marker_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ResultsError, match=complaint):
        update(text, {"x": "t"}, "README.md")


def test_ablations_without_the_whole_model_or_baselines_still_make_a_table(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    put(results, "mealrec:no-tcd", 0.2)
    assert list(tables([results])) == ["ablation-food"]


def test_an_ablation_below_popularity_is_noted(results: Results) -> None:
    put(results, "mealrec:no-tcd", 0.05)
    assert "| mealrec:no-tcd (implemented, not competitive) |" in tables([results])["ablation-food"]


def test_a_dataset_in_two_files_is_refused(results: Results, tmp_path: Path) -> None:
    other = Results.open(tmp_path / "other.json")
    put(other, "sasrec", 0.2)
    with pytest.raises(ResultsError, match="food is in more than one result file"):
        tables([results, other])


def test_plots_are_the_same_bytes_each_time_and_a_set_without_conditions_has_no_robustness_plot(
    results: Results, tmp_path: Path
) -> None:
    one, two = (write_plots([results], tmp_path / name) for name in ("a", "b"))
    assert [p.name for p in one] == ["quality-food.svg"]
    assert one[0].read_bytes() == two[0].read_bytes()
    for share in SHARES:
        put(results, "mealrec", 0.1, variant=f"replace={share}")
    assert {p.name for p in write_plots([results], tmp_path / "c")} == {"quality-food.svg", "robustness-food.svg"}


def test_a_mean_has_no_interval_without_its_ranks(results: Results) -> None:
    shown = span(results, "food", "mealrec", "ndcg@10")
    assert shown is not None and shown[0] == pytest.approx(0.5)  # every viewer's target is at rank 3
    shutil.rmtree(results.path.with_suffix(".ranks"))
    assert span(results, "food", "mealrec", "ndcg@10") == (0.25, 0.25, 0.25)
    assert span(results, "food", "absent", "ndcg@10") is None
