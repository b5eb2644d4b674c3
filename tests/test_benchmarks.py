"""What the benchmarks measure is what they say."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVIEST = "u00000000"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_an_event_log_has_one_viewer_with_a_hundredth_of_the_rows_or_has_none(tmp_path: Path) -> None:
    event_log = importlib.import_module("event_log")
    shares = {}
    for even in (False, True):
        event_log.write_log(tmp_path / str(even), 50_000, "parquet", even=even)
        users = pads.dataset(tmp_path / str(even) / "events").to_table(columns=["user_id"])["user_id"]
        assert len(users) == 50_000
        shares[even] = pc.sum(pc.equal(users, HEAVIEST)).as_py() / len(users)
    assert shares[False] == pytest.approx(0.01, abs=0.002) and shares[True] == 0


def test_a_run_without_the_heavy_viewer_is_kept_beside_the_one_with_it(tmp_path: Path) -> None:
    sessionize = importlib.import_module("sessionize")
    out = tmp_path / "result.json"
    figures = {"engine": "mealrec", "seconds": 1.0, "processor_s": 1.0, "peak_mb": 1000}
    for even in (False, True, True):
        sessionize._keep(argparse.Namespace(rows=1_000_000, format="csv", even=even, out=out), [figures])
    runs = json.loads(out.read_text())["runs"]
    assert [run["command"].endswith("--even") for run in runs] == [False, True]
    lines = sessionize.table(runs).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["1 million, csv", "1 million, csv, no heavy viewer"]
