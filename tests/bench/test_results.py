"""The result file: complete or absent, shared by processes, readable errors."""

from __future__ import annotations

import json
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from mealrec.bench.compare import compare_all
from mealrec.bench.report import tables
from mealrec.bench.results import Cell, Key, Results, ResultsError


def cell(model: str = "sasrec", seed: int = 0, digest: str = "d", **changes: object) -> Cell:
    metrics = {"valid": {"ndcg@10": 0.1}, "test": {"hr@10": 0.123456789, "ndcg@10": 0.1, "mrr@10": 0.05}}
    made = Cell("food", model, seed, "", "leave-one-out", {"lr": 1e-3}, digest, metrics)
    return replace(made, **changes)  # type: ignore[arg-type]


def ranks(*values: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, dtype=np.int32)


def test_what_was_put_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    Results.open(path).put(cell(), ranks(1, 5, 9), "mealrec bench quality")
    again = Results.open(path)
    assert again.has(Key("food", "sasrec", 0), "d") and not again.has(Key("food", "sasrec", 1), "d")
    assert again.ranks(Key("food", "sasrec", 0)).tolist() == [1, 5, 9]
    assert again.cells[Key("food", "sasrec", 0)].metrics["test"]["hr@10"] == 0.123457
    assert again.body["commands"] == ["mealrec bench quality"] and again.body["hardware"]["cores"] >= 1


def test_ranks_are_kept_as_deep_as_metrics_look_and_small(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    deep = np.random.default_rng(0).integers(1, 20_000, size=50_000)
    results.put(cell(), deep)
    found = results.ranks(cell().key)
    assert found.dtype == np.int32 and np.array_equal(found, np.minimum(deep, 21))
    assert (tmp_path / "r.ranks" / cell().key.file()).stat().st_size < 20_000


def test_a_damaged_file_of_ranks_is_named(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    results.put(cell(), ranks(1))
    (tmp_path / "r.ranks" / cell().key.file()).write_bytes(b"no archive")
    with pytest.raises(ResultsError, match=r"sasrec--0\.npz holds no ranks"):
        results.ranks(cell().key)


def test_cells_made_elsewhere_come_with_their_ranks_and_replace_older_ones(tmp_path: Path) -> None:
    here, there = Results.open(tmp_path / "here.json"), Results.open(tmp_path / "there.json")
    here.put(cell(seed=0), ranks(9), "one")
    there.put(cell(seed=0, digest="newer"), ranks(3), "two")
    there.put(cell(seed=1), ranks(4), "two")
    there.put(cell(seed=2), ranks(5), "two")
    (tmp_path / "there.ranks" / cell(seed=2).key.file()).unlink()
    there.body["hardware"] = {"cpu": "another machine's"}
    assert here.absorb(there) == [cell(seed=2).key]
    again = Results.open(tmp_path / "here.json")
    assert [(c.seed, c.digest) for c in again.select("food", "sasrec")] == [(0, "newer"), (1, "d")]
    assert again.ranks(cell(seed=0).key).tolist() == [3] and again.body["commands"] == ["one", "two"]
    assert again.body["hardware"] == {"cpu": "another machine's"}


def test_a_cell_of_other_data_is_not_there_and_one_that_does_not_say_is(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    results.put(cell(data="new"), ranks(1))
    results.put(cell(seed=1), ranks(1))  # of an older file
    again = Results.open(tmp_path / "r.json")
    assert [again.has(cell().key, "d", data) for data in ("", "new", "other")] == [True, True, False]
    assert again.has(cell(seed=1).key, "d", "other")


@pytest.mark.parametrize(
    ("change", "told"),
    [({"data": "two"}, "data differs: one: .*; two: sasrec seed 1"), ({"protocol": "temporal"}, "protocol differs: ")],
)
def test_cells_of_other_data_or_of_another_protocol_are_not_put_beside_each_other(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    here, there = Results.open(tmp_path / "here.json"), Results.open(tmp_path / "there.json")
    here.put(cell(data="one"), ranks(9))
    here.put(cell("itemknn"), ranks(9))  # of an older file
    there.put(cell(seed=1, **({"data": "one"} | change)), ranks(3))  # type: ignore[arg-type]
    before = (tmp_path / "here.json").read_bytes()
    with pytest.raises(ResultsError, match=f"cells of food can't be compared, their {told}"):
        here.absorb(there)
    assert (tmp_path / "here.json").read_bytes() == before and not here._ranks_file(cell(seed=1).key).exists()
    here.put(cell(seed=1, **({"data": "one"} | change)), ranks(3))  # type: ignore[arg-type]
    for pairing in (lambda: compare_all(here, []), lambda: tables([here])):
        with pytest.raises(ResultsError, match=told):
            pairing()


def test_other_settings_make_the_cell_missing_and_replace_it(tmp_path: Path) -> None:
    results = Results.open(tmp_path / "r.json")
    results.put(cell(), ranks(1))
    assert not results.has(cell().key, "other")
    results.put(cell(digest="other"), ranks(2))
    assert len(results.cells) == 1 and results.ranks(cell().key).tolist() == [2]


def test_ranks_without_a_cell_count_as_missing_and_so_does_a_cell_without_ranks(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    folder = tmp_path / "r.ranks"
    folder.mkdir()
    np.savez_compressed(folder / cell().key.file(), ranks=ranks(1))  # killed between the two
    assert not Results.open(path).has(cell().key, "d")
    results = Results.open(path)
    results.put(cell(), ranks(1))
    (folder / cell().key.file()).unlink()
    assert not results.has(cell().key, "d")
    with pytest.raises(ResultsError, match=r"sasrec--0\.npz is not here: run the cell again"):
        results.ranks(cell().key)


def _fill(path: str, model: str) -> None:
    for seed in range(12):
        Results.open(Path(path)).put(cell(model, seed), ranks(seed + 1), model)


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    context = get_context("fork")
    both = [context.Process(target=_fill, args=(str(path), m)) for m in ("sasrec", "mealrec")]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    results = Results.open(path)
    assert len(results.cells) == 24 and sorted(results.body["commands"]) == ["mealrec", "sasrec"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is no JSON"),
        ('{"format": 7, "cells": []}', "not a result file of format 1"),
        ('{"format": 1, "cells": [{"dataset": "x"}]}', "missing fields .*'digest'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=complaint) as raised:
        Results.open(path)
    assert "r.json" in str(raised.value)


def test_the_file_is_stable(tmp_path: Path) -> None:
    for name, order in (("a", (0, 1)), ("b", (1, 0))):
        results = Results.open(tmp_path / f"{name}.json")
        for seed in order:
            results.put(cell(seed=seed), ranks(1))
    texts = [json.loads((tmp_path / f"{n}.json").read_text())["cells"] for n in ("a", "b")]
    assert texts[0] == texts[1]


def test_a_kill_while_a_cell_is_replaced_never_leaves_old_figures_beside_new_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.json"
    Results.open(path).put(cell(), ranks(1))
    written = Results._write

    def killed(self: Results) -> None:
        if self.cells:
            raise KeyboardInterrupt
        written(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Results, "_write", killed)
        Results.open(path).put(cell(digest="other"), ranks(99))
    again = Results.open(path)
    assert not again.has(cell().key, "d") and not again.has(cell().key, "other")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"cells": [5]}, "no object but 5"),
        ({"cells": [{"dataset": "x"}]}, "'protocol'.*'settings'"),
        ({"commands": None}, "`commands` is missing or not a list"),
    ],
)
def test_a_damaged_part_is_named(tmp_path: Path, change: dict[str, object], complaint: str) -> None:
    path = tmp_path / "r.json"
    Results.open(path).put(cell(), ranks(1))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultsError, match=complaint):
        Results.open(path)


def test_a_field_of_a_wrong_type_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    Results.open(path).put(cell(), ranks(1))
    body = json.loads(path.read_text())
    body["cells"][0]["seed"] = "0"
    path.write_text(json.dumps(body))
    with pytest.raises(ResultsError, match="`seed` is '0', not a int"):
        Results.open(path)
