"""Tuning: the same budget for every model, on validation alone, and a search that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mealrec.bench import tune
from mealrec.bench.rows import ROWS
from tests.conftest import write_packed


def test_a_search_has_its_budget_goes_on_and_stays_in_its_space(tmp_path: Path) -> None:
    write_packed(tmp_path / "tiny")
    first = tune._search(str(tmp_path / "tiny"), "itemknn", [], 3, str(tmp_path / "c"))
    assert len(first) == 3
    for trial in first:
        assert all(value in ROWS["itemknn"].space[name] for name, value in trial["settings"].items())
        assert 0 < trial["valid_ndcg@10"] <= 1
        again = tune.validation_of(tmp_path / "tiny", "itemknn", trial["settings"], tmp_path / "c")
        assert again == trial["valid_ndcg@10"]
    more = tune._search(str(tmp_path / "tiny"), "itemknn", first, 5, str(tmp_path / "c"))
    assert more[:3] == first and len(more) == 5
    assert tune._search(str(tmp_path / "tiny"), "itemknn", more, 5, str(tmp_path / "c")) == more


def test_the_test_targets_are_never_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_packed(tmp_path / "tiny")
    asked = []
    plain = tune.rank_targets

    def spy(scorer: object, data: object, split: str, **more: object) -> object:
        asked.append(split)
        return plain(scorer, data, split, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tune, "rank_targets", spy)
    tune.validation_of(tmp_path / "tiny", "itemknn", {"neighbours": 50}, tmp_path / "c")
    assert asked == ["valid"]


def test_the_command_writes_its_trials_and_names_the_best(tmp_path: Path) -> None:
    write_packed(tmp_path / "tiny")
    out, said = tmp_path / "t.json", []
    best = tune.run_tuning(
        [tmp_path / "tiny"], ["itemknn", "markov"], trials=2, out=out, cache=tmp_path / "c", jobs=1, say=said.append
    )
    held = json.loads(out.read_text())
    assert list(held) == ["tiny/itemknn"] and len(held["tiny/itemknn"]) == 2  # markov has nothing to tune
    assert best["tiny/itemknn"] == max(held["tiny/itemknn"], key=lambda t: t["valid_ndcg@10"])["settings"]
    assert "2 trials, best" in said[-1]
