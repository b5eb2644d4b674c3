"""The benchmark command on a small set: every row runs, a killed run goes on, conditions do what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.bench.cell import complete_settings, train_cell
from mealrec.bench.conditions import corrupted, poorer
from mealrec.bench.quality import Task, digest_of, run_cell, run_quality
from mealrec.bench.report import tables, update
from mealrec.bench.results import Key, Results, ResultsError
from mealrec.bench.rows import ROWS, row
from mealrec.bench.tokens import destroyed
from mealrec.data.packed import Packed
from mealrec.data.split import Protocol
from mealrec.evaluation.ranking import rank_targets
from tests.bench.test_folder import recbole
from tests.conftest import write_packed

SMALL = {"warmup_epochs": 2, "joint_epochs": 1, "width": 16, "batch_size": 16, "patience": 1}


def settings(name: str, packed: Packed) -> dict[str, object]:
    del packed
    chosen = SMALL if ROWS[name].kind != "counts" else {}
    return complete_settings(row(name), {"max_history": 8, **chosen} if chosen else {}, "unknown")


@pytest.mark.parametrize("name", [n for n in ROWS if ROWS[n].kind != "counts"])
def test_every_row_trains_and_ranks(name: str, packed: Packed) -> None:
    ready = train_cell(row(name), packed, settings(name, packed), seed=1)
    ranked = rank_targets(ready.scorer, ready.data, "test", max_history=8)
    assert len(ranked.rank) > 30 and ready.epochs >= 1 and 0 <= ready.valid <= 1


def test_a_shared_warm_up_gives_what_an_own_one_gives(packed: Packed, tmp_path: Path) -> None:
    own = train_cell(row("mealrec:no-tcd"), packed, settings("mealrec:no-tcd", packed), seed=1)
    train_cell(row("mealrec:no-npd"), packed, settings("mealrec:no-npd", packed), seed=1, warm=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    shared = train_cell(row("mealrec:no-tcd"), packed, settings("mealrec:no-tcd", packed), seed=1, warm=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    warm = [[c["ndcg@10"] for c in r.curves if c["stage"] == "warmup"] for r in (own, shared)]
    assert warm[0] == warm[1]
    train_cell(row("mealrec:no-tcd"), packed, settings("mealrec:no-tcd", packed), seed=2, warm=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 2


def test_a_setting_that_nothing_reads_is_refused(packed: Packed) -> None:
    with pytest.raises(ValueError, match="sasrec: nothing reads droput"):
        train_cell(row("sasrec"), packed, settings("sasrec", packed) | {"droput": 0.1}, seed=1)


def test_histories_are_disturbed_at_their_share_and_alike_for_every_model() -> None:
    history = torch.randint(1, 50, (300, 10))
    history[:, :4] = 0
    seen: list[torch.Tensor] = []
    popularity = torch.ones(1000)
    popularity[:51] = 0  # a substitute is recognisable

    def score(given: torch.Tensor) -> torch.Tensor:
        seen.append(given)
        return given.float()

    corrupted(score, "replace", 0.3, popularity, 1, 10)(history)
    corrupted(score, "replace", 0.3, popularity, 1, 10)(history.flip(0))
    assert torch.equal(seen[0], seen[1].flip(0))
    strange = seen[0] > 50
    assert 0.26 < float(strange.float().mean()) < 0.34
    assert torch.equal(seen[0][~strange], history[:, 4:][~strange])
    corrupted(score, "drop", 0.3, popularity, 1, 10)(history)
    assert 0.26 < 1 - float((seen[2] > 0).sum()) / float((history > 0).sum()) < 0.34
    assert bool((seen[2][:, -1] > 0).all())
    corrupted(score, "insert", 0.3, popularity, 1, 10)(history)
    assert float((seen[3] > 50).float().sum()) > 300 and seen[3].shape == (300, 10)
    with pytest.raises(ValueError, match="valid: replace, drop, insert"):
        corrupted(score, "flip", 0.3, popularity, 1, 10)


@pytest.mark.parametrize("kind", ["replace", "drop", "insert"])
def test_a_viewers_disturbed_history_is_the_same_whatever_the_batch(kind: str) -> None:
    short = torch.randint(1, 50, (40, 6))
    beside = torch.randint(1, 50, (1, 14))
    alone, padded = (disturbed(kind, h) for h in (short, torch.cat([torch.nn.functional.pad(short, (8, 0)), beside])))
    assert alone == padded[:-1]


def test_an_insertion_pushes_out_what_is_older_than_the_window_and_nothing_else() -> None:
    history = torch.randint(1, 50, (300, 8))
    for whole, found in zip(history.tolist(), disturbed("insert", history), strict=True):
        true = [item for item in found if item <= 50]
        assert true == whole[-len(true) :]
        assert len(true) == len(whole) or len(found) == 10, "a true item is lost and the window has room"


def disturbed(kind: str, history: torch.Tensor) -> list[list[int]]:
    """What a scorer is given of each viewer, without padding; strangers are above 50, the window holds 10."""
    seen: list[torch.Tensor] = []
    popularity = torch.ones(1000)
    popularity[:51] = 0

    def score(given: torch.Tensor) -> torch.Tensor:
        seen.append(given)
        return given.float()

    corrupted(score, kind, 0.3, popularity, 1, 10)(history)
    return [row[row > 0].tolist() for row in seen[0]]


def test_content_is_made_poorer_as_asked(packed: Packed) -> None:
    index = torch.arange(1, 31)
    whole = packed.content.gather(index)
    assert not torch.allclose(poorer(packed.content.gather, "noise", 1.0, 0)(index).visual, whole.visual)
    kept = poorer(packed.content.gather, "tokens", 0.5, 0)(index).frame_mask
    assert 0.3 < float(kept.sum()) / float(whole.frame_mask.sum()) < 0.7
    assert not bool(poorer(packed.content.gather, "video", 1.0, 0)(index).has_frames.any())
    assert not bool(poorer(packed.content.gather, "title", 1.0, 0)(index).has_text.any())
    with pytest.raises(ValueError, match="valid: noise, tokens, video, title"):
        poorer(packed.content.gather, "smell", 1.0, 0)


def test_tokens_are_destroyed_as_each_ablation_says(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "p", frames=5)
    index = torch.arange(6, 31)
    whole = packed.content.gather(index)
    shuffled = destroyed(packed, "shuffled", 0).content.gather(index)
    assert not torch.equal(shuffled.visual, whole.visual) and torch.equal(shuffled.frame_mask, whole.frame_mask)
    for one, other, mask in zip(shuffled.visual, whole.visual, whole.frame_mask, strict=True):
        assert sorted(one[mask][:, 0].tolist()) == sorted(other[mask][:, 0].tolist())
    assert destroyed(packed, "middle", 0).content.gather(index).frame_mask.sum(1).tolist() == [1] * 25
    other = destroyed(packed, "other", 0).content
    assert torch.equal(other.gather(index).visual, packed.content.gather(other._partner(index)).visual)  # type: ignore[attr-defined]
    assert torch.equal(other.gather(index).text, whole.text)
    random = destroyed(packed, "random", 0).content
    assert not torch.equal(random.gather(index).visual, whole.visual)
    assert torch.equal(random.gather(index[2:3]).visual[0], random.gather(index).visual[2])
    assert destroyed(packed, "ordered", 0) is packed


@pytest.mark.slow
def test_a_table_is_made_resumed_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tiny"
    write_packed(root)
    chosen = {name: {"tiny": SMALL} for name in ("sasrec", "mealrec")}
    monkeypatch.setattr("mealrec.bench.quality.chosen", lambda dataset, name: chosen.get(name, {}).get(dataset, {}))
    monkeypatch.setattr("mealrec.bench.quality._run_all", in_this_process)
    out, said = tmp_path / "r.json", []
    models = ["popularity", "markov", "sasrec", "mealrec"]
    made = run_quality([root], models, seeds=range(2), out=out, cache=tmp_path / "c", say=said.append)
    assert said[0] == "6 cells, 0 there already, 1 at a time"
    assert made.models("tiny") == sorted(models) and len(made.select("tiny", "mealrec", "replace=0.3")) == 2
    assert made.select("tiny", "mealrec", "title=0.5") and not made.select("tiny", "sasrec", "title=0.5")
    assert "content-tiny" in tables([made])
    extra = made.select("tiny", "mealrec")[0].extra
    assert {"npd_identifiability_r2", "salience_entropy", "unusual@0.3"} <= set(extra)
    (out.with_suffix(".ranks") / Key("tiny", "mealrec", 1).file()).unlink()
    run_quality([root], models, seeds=range(2), out=out, cache=tmp_path / "c", say=said.append)
    assert "6 cells, 5 there already, 1 at a time" in said
    again = Results.open(out)
    assert again.select("tiny", "mealrec")[1].metrics == made.select("tiny", "mealrec")[1].metrics
    with pytest.raises(ValueError, match="unknown model 'sasrek'; valid: popularity"):
        run_quality([root], ["sasrek"], seeds=[0], out=out, cache=tmp_path / "c", say=said.append)


def in_this_process(tasks: list[object], jobs: int, say: object) -> None:
    from mealrec.bench.quality import run_cell

    for task in tasks:
        run_cell(replace(task, device="cpu"))  # type: ignore[type-var]


@pytest.mark.parametrize("model", ["popularity", "markov", "itemknn"])
def test_a_row_that_is_only_computed_is_ranked_where_it_is_computed(tmp_path: Path, model: str) -> None:
    write_packed(tmp_path / "tiny")
    for device in ("cpu", "cuda"):
        run_cell(Task(*(str(tmp_path / n) for n in ("tiny", "c", device)), model, 0, "leave-one-out", device, ""))
    cpu, cuda = (Results.open(tmp_path / device).select("tiny", model)[0] for device in ("cpu", "cuda"))
    assert cuda.metrics == cpu.metrics


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model", ["mealrec", "mealrec:state", "mealrec:shuffled", "mealrec:random-tokens", "diffrec"])
def test_a_cell_with_its_conditions_and_diagnostics_is_made_on_a_gpu(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_packed(tmp_path / "tiny")
    monkeypatch.setattr("mealrec.bench.quality.chosen", lambda dataset, name: SMALL)
    run_cell(Task(*(str(tmp_path / n) for n in ("tiny", "c", "r")), model, 0, "leave-one-out", "cuda", ""))
    assert Results.open(tmp_path / "r").select("tiny", model)


def test_each_protocol_and_each_state_of_the_data_has_its_own_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mealrec.bench.quality._run_all", in_this_process)
    rows = [f"{item}\tu{user}\t1\t{user + 10 * n}" for user in range(9) for n, item in enumerate("abcdefghij")]
    root = recbole(tmp_path / "timed", rows, titles=False)
    said: list[str] = []

    def made(*models: str, protocol: Protocol = "leave-one-out") -> Results:
        return run_quality(
            [root],
            models,
            seeds=[0],
            out=tmp_path / "r.json",
            cache=tmp_path / "c",
            protocol=protocol,
            say=lambda line: said.append(line) if " cells, " in line else None,
        )

    made("markov", "itemknn")
    results = made("markov", protocol="temporal")
    assert results.datasets() == ["timed", "timed@temporal"] and len(results.cells) == 3
    assert len({cell.data for cell in results.cells.values()}) == 1
    assert made("markov", protocol="temporal").cells == results.cells and said[-1].startswith(
        "1 cells, 1 there already"
    )
    (root / "unseen.inter").write_text((root / "unseen.inter").read_text() + "a\tu99\t1\t5\n")
    with pytest.raises(ResultsError, match=r"data differs: .*: itemknn seed 0; .*: markov seed 0"):
        made("markov")
    assert len({cell.data for cell in made("markov", "itemknn").select("timed", "markov")}) == 1
    assert said[-1].startswith("2 cells, 0 there already")


def test_cells_that_were_committed_before_are_still_found() -> None:
    results = Results.open(Path(__file__).parents[2] / "benchmarks" / "results" / "quality.json")
    for model, seeds in (("mealrec", 5), ("sasrec+content+augment", 5), ("l-diffrec", 1)):
        for seed in range(seeds):
            task = Task("bili_food", "", "", model, seed, "leave-one-out", "cpu", "", data="new")
            found = results.cells[task.key]
            assert (found.digest, found.data, found.variant) == (digest_of(task), "", "")


FILE = {
    "format": 1,
    "hardware": {},
    "commands": [],
    "comparisons": [
        {
            "kind": "difference",
            "dataset": "food",
            "model": "mealrec",
            "against": "sasrec",
            "metric": "ndcg@10",
            "mean": 0.01,
            "low": 0.005,
            "high": 0.015,
            "relative": 0.1,
            "seeds": [2, 2],
            "best_baseline": True,
        }
    ],
    "cells": [
        {
            "dataset": "food",
            "model": model,
            "seed": seed,
            "variant": "",
            "digest": "d",
            "protocol": "leave-one-out",
            "settings": {},
            "beyond": {"coverage": 0.5},
            "seconds": 10.0,
            "metrics": {
                "valid": {"ndcg@10": value},
                "test": {"hr@10": 2 * value, "ndcg@10": value + seed / 100, "mrr@10": value},
            },
            "slices": {"target never seen in training": {"viewers": 5, "hr@10": 0.02, "ndcg@10": 0.01}},
        }
        for model, value, seed in (
            ("popularity", 0.02, 0),
            ("sasrec", 0.1, 0),
            ("sasrec", 0.1, 1),
            ("mealrec", 0.11, 0),
            ("dcrec", 0.01, 0),
        )
    ],
}


def test_tables_state_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(FILE))
    lines = tables([Results.open(path)])["quality-food"].splitlines()
    assert lines[2] == "| popularity | .0400 | .0200 | .0200 | .0200 | .0200 | 0.50 | 1 | 10 |  |"
    assert lines[3].startswith("| sasrec † | .2000 ± .0000 | .1050 ± .0071 | .1000 ± .0000 |")
    assert lines[3].endswith("| 2 | 10 | +0.0100 [+0.0050, +0.0150] (+10.0%) |")
    assert lines[4].startswith("| dcrec (implemented, not competitive) |")
    assert lines[5].startswith("| **mealrec** |")


def test_a_readme_gets_its_tables_and_a_marker_without_one_is_an_error() -> None:
    text = "a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb\n"
    assert update(text, {"x": "new"}, "R") == "a\n<!-- bench:x -->\nnew\n<!-- /bench:x -->\nb\n"
    assert update(update(text, {"x": "new"}, "R"), {"x": "new"}, "R") == update(text, {"x": "new"}, "R")
    with pytest.raises(ResultsError, match="no result file fills the marker bench:x"):
        update(text, {"y": "new"}, "R")
    with pytest.raises(ResultsError, match="is not closed"):
        update("<!-- bench:x -->\n", {"x": "new"}, "R")


def test_ranks_go_by_viewer_whatever_the_batches(packed: Packed) -> None:
    def score(history: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(history), packed.items + 1)

    one = rank_targets(score, packed, "test", max_history=8, batch_size=3, exposure=True)
    two = rank_targets(score, packed, "test", max_history=8, batch_size=64, exposure=True)
    assert np.array_equal(one.viewer, np.sort(one.viewer)) and np.array_equal(one.rank, two.rank)
    assert np.array_equal(one.target, two.target) and int(one.shown.sum()) == 10 * len(one.viewer)
