"""`mealrec bench merge`: cells of other days and machines in one file, compared with what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from mealrec.bench.results import Results
from mealrec.cli import app
from tests.bench.test_results import cell


def test_cells_of_two_machines_are_compared_once_they_are_in_one_file(tmp_path: Path) -> None:
    into, other = tmp_path / "all.json", tmp_path / "other.json"
    Results.open(into).put(cell("sasrec"), np.full(40, 8))
    found = Results.open(other)
    found.put(cell("mealrec"), np.full(40, 2))
    found.put(cell("mealrec", seed=1), np.full(40, 2))
    (tmp_path / "other.ranks" / cell("mealrec", seed=1).key.file()).unlink()
    done = CliRunner().invoke(app, ["bench", "merge", str(into), str(other)])
    assert done.exit_code == 0, done.output
    assert "1 cells taken" in done.stderr and "left out, no ranks: food mealrec 1" in done.stderr
    made = {c["metric"]: c for c in Results.open(into).body["comparisons"] if c["kind"] == "difference"}
    assert made["hr@10"]["mean"] == 0.0 and made["ndcg@10"]["low"] > 0.3
