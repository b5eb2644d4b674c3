"""The model card says what a version was made from, how good it is and what it is not for."""

from __future__ import annotations

from typing import Any

from mealrec.registry.card import LONGEST_DESCRIPTION, card, description

REPORT: dict[str, Any] = {
    "metrics": {
        "test": {
            "mealrec": {"hr@10": 0.5, "ndcg@10": 0.25},
            "markov": {"hr@10": 0.4, "ndcg@10": 0.2},
            "popularity": {"hr@10": 0.1, "ndcg@10": 0.05},
        }
    },
    "intervals": {"ndcg@10": {"markov": {"mean": 0.05, "low": 0.01, "high": 0.09}}},
    "data": {"sequences": 3, "features": 7},
    "data_digest": "d1g35t",
    "viewers": 400,
    "items": 120,
    "tokens": "frames",
    "slices": [{"slice": "tail target", "viewers": 31, "mealrec": 0.125}],
    "beyond": {"mealrec": {"coverage": 0.75, "gini": 0.5, "popularity_lift": 1.5}},
    "config": {"model": {"backbone": "sasrec", "width": 64}, "evaluate": {"protocol": "leave-one-out"}, "seed": 7},
}


def test_it_names_data_versions_metrics_slices_use_and_limits() -> None:
    text = card(REPORT, name="mealrec", trained="2026-01-05T02:30:00+00:00", baselines=("markov",))
    for words in (
        "`features` version 7, `sequences` version 3; digest `d1g35t`. 400 test viewers, 120 videos",
        "protocol leave-one-out, seed 7",
        "| mealrec | 0.5000 | 0.2500 |",
        "| markov | 0.4000 | 0.2000 | +0.0500 [+0.0100, +0.0900] |",
        "| tail target | 31 | 0.1250 |",
        "Catalogue coverage 0.750",
        "Registered 2026-01-05T02:30:00+00:00",
        "## Intended use\nRanks the videos of this catalogue",
        "## Limits\nLearned from what was shown",
    ):
        assert words in text
    assert "popularity |" not in text, "no baseline that the gate did not ask for"
    assert description(text) == text


def test_a_card_that_is_too_long_for_the_registry_ends_at_a_line_and_says_where_the_rest_is() -> None:
    many = REPORT | {"slices": [{"slice": f"slice {n}", "viewers": n, "mealrec": 0.1} for n in range(300)]}
    text = card(many, name="mealrec", trained="now", baselines=())
    cut = description(text)
    assert len(cut) <= LONGEST_DESCRIPTION < len(text)
    kept, rest = cut.split("\n\n(the rest")
    assert text.startswith(kept + "\n") and rest == ": card.md of the run)"
