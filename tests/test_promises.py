"""What the project promises of its speed and memory, held against the committed results of its benchmarks.

Nothing is timed here. A promise that a new result breaks is one to be mended, or to be taken back where it is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
MILLIONS = 10_000_000  # rows from which Spark's start no longer decides
SESSIONIZED = ("sessionize.json", "sessionize_epyc.json")


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return found


def sessions(name: str, *, even: bool = False) -> dict[int, dict[str, dict[str, Any]]]:
    """Engines by rows, of Parquet."""
    runs = [run for run in result(name)["runs"] if run["input"] == "parquet" and run.get("even", False) == even]
    return {run["rows"]: {engine["engine"]: engine for engine in run["engines"]} for run in runs}


@pytest.mark.parametrize("name", SESSIONIZED)
def test_sessions_of_millions_of_rows_take_at_most_twice_duckdbs_time(name: str) -> None:
    large = {rows: run for rows, run in sessions(name).items() if rows >= MILLIONS}
    assert MILLIONS in large
    for rows, run in large.items():
        assert run["mealrec"]["seconds"] <= 2 * run["duckdb"]["seconds"], rows
        assert run["mealrec"]["sessions"] == run["duckdb"]["sessions"], rows


def test_sessions_cost_by_the_row_and_memory_does_not_grow_with_them() -> None:
    found = {rows: run["mealrec"] for rows, run in sessions("sessionize.json").items() if rows >= MILLIONS}
    assert max(found) > MILLIONS
    for rows, run in found.items():
        assert run["peak_mb"] <= 1.2 * found[MILLIONS]["peak_mb"], rows
        assert run["seconds"] / rows <= 1.3 * found[MILLIONS]["seconds"] / MILLIONS, rows


def test_a_viewer_with_a_hundredth_of_all_rows_does_not_stretch_it() -> None:
    skewed, even = sessions("sessionize_epyc.json"), sessions("sessionize_epyc.json", even=True)
    assert MILLIONS in skewed and MILLIONS in even
    for rows in skewed.keys() & even.keys():
        assert skewed[rows]["mealrec"]["seconds"] <= 1.2 * even[rows]["mealrec"]["seconds"], rows


def test_extraction_is_as_fast_as_a_bare_loop_over_decoder_and_encoder() -> None:
    turns = result("extract.json")["clips"]["in_turns"]
    lower, upper = turns["interval"]
    assert lower <= turns["share"] <= upper and turns["share"] >= 0.9


def test_extraction_of_an_unchanged_catalogue_costs_next_to_nothing() -> None:
    found = result("extract.json")["catalogue"]
    assert found["videos"] >= 10_000 and found["again_share"] < 0.02
    assert found["again_s"] / found["first_run_s"] == pytest.approx(found["again_share"], abs=1e-4)


def test_memory_of_extraction_does_not_grow_with_the_clips() -> None:
    """Of the second half of the catalogue, 5,000 clips, against the first."""
    found = result("extract.json")["catalogue"]
    for part, by_tenth in found["memory_mib"].items():
        half = len(by_tenth) // 2
        assert max(by_tenth[half:]) <= 1.1 * max(by_tenth[:half]), part
