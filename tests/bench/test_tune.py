"""Tuning: the same budget for every model, on validation alone, and a search that goes on where it was stopped."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import NoReturn

import pytest

from mealrec.bench import tune
from mealrec.bench.cell import TRAINED, complete_settings, train_cell
from mealrec.bench.rows import ROWS, row
from mealrec.data.packed import Packed
from tests.conftest import write_packed

MODEL = "itemknn"


def tuned(folder: Path, out: Path, trials: int, *models: str) -> tuple[list[tune.Trial], list[str]]:
    """Trials of MODEL as they are kept, without their seconds, and what was said."""
    said: list[str] = []
    tune.run_tuning(
        [folder], models or [MODEL], trials=trials, out=out, cache=folder / "c", jobs=1, say=lambda s: said.append(s)
    )
    held = json.loads(out.read_text())
    assert list(held) == [f"{folder.name}/{MODEL}"]
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in held[f"{folder.name}/{MODEL}"]], said


def test_a_search_that_goes_on_ends_as_one_that_was_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "RANDOM_TRIALS", 1)
    write_packed(tmp_path / "tiny")
    whole, _ = tuned(tmp_path / "tiny", tmp_path / "whole.json", 4)
    for trials in (2, 4, 4):
        parts, said = tuned(tmp_path / "tiny", tmp_path / "parts.json", trials)
        assert parts == whole[:trials]
    assert [line for line in said if "[" in line] == [], "the last had nothing to do"
    tried = [trial["settings"] for trial in whole]
    assert len({json.dumps(settings) for settings in tried}) == 4, "nothing is tried twice"
    space = ROWS[MODEL].space
    assert all(value in space[name] for settings in tried for name, value in settings.items())
    assert all(0 < trial["valid_ndcg@10"] <= 1 for trial in whole)


def test_the_first_trial_is_of_the_untuned_settings(tmp_path: Path) -> None:
    assert tune.ask(tune.Search(tmp_path / "tiny", MODEL), []) == {"neighbours": 100, "shrink": 5.0, "decay": 0.6}
    large = tune.Search(tmp_path / "microlens50k", "sasrec")
    first = tune.ask(large, [])
    assert first == {"lr": 1e-3, "dropout": 0.3, "batch_size": 512}, "also where they lie beside the space"
    second = tune.ask(large, [{"settings": first, "valid_ndcg@10": 0.1}])
    assert second is not None and second["batch_size"] in ROWS["sasrec"].space["batch_size"]


def runs_untuned(model: str, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Every setting that a row's training reads when nothing is chosen: what its class is given or has itself."""
    made: dict[str, object] = {}

    def built(self: object, *given: object, **named: object) -> NoReturn:
        bound = inspect.signature(plain).bind(self, *given, **named)
        bound.apply_defaults()
        made.update(bound.arguments)
        raise InterruptedError

    kind = TRAINED[model]
    plain = kind.__init__
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(kind, "__init__", built)
        train_cell(row(model), packed, complete_settings(row(model), {}, "tiny"), seed=0)
    return complete_settings(row(model), {}, "tiny") | made


@pytest.mark.parametrize("model", [name for name in ROWS if ROWS[name].space])
def test_the_first_trial_of_every_row_is_what_it_runs_untuned(
    model: str, packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tune.ask(tune.Search(tmp_path / "tiny", model), [])
    trained = ROWS[model].kind == "trained"
    untuned = runs_untuned(model, packed, monkeypatch) if trained else complete_settings(row(model), {}, "tiny")
    assert first == {name: untuned[name] for name in ROWS[model].space}


def test_a_space_of_what_a_row_has_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS["diffrec"].space, "widht", (1, 2))  # type: ignore[index]
    with pytest.raises(ValueError, match="diffrec: no untuned value of widht"):
        tune.ask(tune.Search(tmp_path / "tiny", "diffrec"), [])


def test_a_space_that_is_used_up_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_packed(tmp_path / "tiny")
    monkeypatch.setitem(ROWS[MODEL].space, "neighbours", (50, 100))  # type: ignore[index]
    monkeypatch.setitem(ROWS[MODEL].space, "shrink", (5.0,))  # type: ignore[index]
    monkeypatch.setitem(ROWS[MODEL].space, "decay", (0.6,))  # type: ignore[index]
    trials, said = tuned(tmp_path / "tiny", tmp_path / "t.json", 5)
    assert len(trials) == 2 and f"tiny/{MODEL}: no settings are left that were not tried" in said


def test_the_test_targets_are_never_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_packed(tmp_path / "tiny")
    asked = []
    plain = tune.rank_targets

    def spy(scorer: object, data: object, split: str, **more: object) -> object:
        asked.append(split)
        return plain(scorer, data, split, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tune, "rank_targets", spy)
    tune.validated(tune.Search(tmp_path / "tiny", MODEL), {"neighbours": 50}, tmp_path / "c")
    assert asked == ["valid"]


def test_the_command_says_each_trial_and_names_the_best(tmp_path: Path) -> None:
    write_packed(tmp_path / "tiny")
    trials, said = tuned(tmp_path / "tiny", tmp_path / "t.json", 2, MODEL, "markov")  # markov has nothing to tune
    best = max(trials, key=lambda trial: trial["valid_ndcg@10"])
    assert [line.partition("]")[0] for line in said[-3:-1]] == [f"tiny/{MODEL} [1/2", f"tiny/{MODEL} [2/2"]
    assert said[-1].startswith(f"tiny/{MODEL}: best of 2 trials {best['valid_ndcg@10']:.4f} with neighbours ")
