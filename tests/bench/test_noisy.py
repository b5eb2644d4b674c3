"""Training on interactions of which a share is somebody else's (R3), judged by what viewers really watched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mealrec.bench.compare import compare_all
from mealrec.bench.noisy import noisy_training
from mealrec.bench.quality import run_quality
from mealrec.bench.report import tables
from mealrec.data.packed import Packed
from mealrec.data.split import training_rows
from tests.bench.test_quality import SMALL, in_this_process
from tests.conftest import write_packed


def test_only_training_interactions_are_replaced_at_their_share_and_counted_anew(tmp_path: Path) -> None:
    packed = write_packed(tmp_path / "p", viewers=200)
    noisy, again = (noisy_training(packed, 0.3, 1) for _ in range(2))
    rows = training_rows(packed.offsets, packed.cuts)
    changed = noisy.sequence != packed.sequence
    assert not changed[~rows].any() and 0.26 < changed[rows].mean() < 0.34
    for start, end in zip(noisy.offsets[:-1], noisy.offsets[1:], strict=True):
        here = np.arange(start, end)
        assert len(set(noisy.sequence[here])) == len(here), "nobody watches a video twice, nor a held-out one before"
        assert not np.isin(noisy.sequence[here][changed[here]], packed.sequence[here]).any()
    assert np.array_equal(noisy.sequence, again.sequence)
    assert not np.array_equal(noisy_training(packed, 0.3, 2).sequence, noisy.sequence)
    counted = np.bincount(noisy.sequence[rows], minlength=packed.items + 1)
    assert np.array_equal(noisy.content.train_count().numpy(), counted) and counted[0] == 0
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy_training(packed, 1.0, 1)


def test_such_cells_stand_beside_the_clean_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tiny"
    write_packed(root)
    monkeypatch.setattr("mealrec.bench.quality.chosen", lambda dataset, name: SMALL if name == "sasrec" else {})
    monkeypatch.setattr("mealrec.bench.quality._run_all", in_this_process)
    trained_on: list[Packed] = []
    monkeypatch.setattr("mealrec.bench.quality.train_cell", spy(trained_on))
    asked = {"seeds": [0], "out": tmp_path / "r.json", "cache": tmp_path / "c", "say": lambda line: None}
    models = ["markov", "sasrec"]
    run_quality([root], models, **asked)  # type: ignore[arg-type]
    clean = trained_on[-1]
    said: list[str] = []
    made = run_quality([root], models, noise=0.4, **asked | {"say": said.append})  # type: ignore[arg-type]
    assert said == ["2 cells, 0 there already, 1 at a time"]
    assert not np.array_equal(trained_on[-1].sequence, clean.sequence)
    (cell,) = made.select("tiny", "sasrec", "train_replace=0.4")
    assert cell.metrics["valid"] and cell.digest != made.select("tiny", "sasrec")[0].digest
    kept = {c["model"]: c for c in compare_all(made, [], system="sasrec") if c.get("variant") == "train_replace=0.4"}
    assert set(kept) == set(models) and kept["markov"]["system_keeps_more"] is not None
    made.set_comparisons(list(kept.values()))
    rows = tables([made])["noisy-tiny"].splitlines()
    assert rows[2].startswith("| markov | 40% | ") and rows[3].startswith("| sasrec | 40% | ")
    run_quality([root], models, noise=0.4, **asked | {"say": said.append})  # type: ignore[arg-type]
    assert said[-1] == "2 cells, 2 there already, 1 at a time"


def spy(seen: list[Packed]):  # type: ignore[no-untyped-def]
    from mealrec.bench.cell import train_cell

    def watched(row, data, *more, **named):  # type: ignore[no-untyped-def]
        seen.append(data)
        return train_cell(row, data, *more, **named)

    return watched
