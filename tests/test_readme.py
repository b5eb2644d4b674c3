"""What the README names exists."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(
    set(re.findall(r"(?m)^(?:\$ )?(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?mealrec ([a-z]+(?: [a-z]+)?)", README))
)


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z]+)`", README):
        assert re.search(rf"(?m)^{target}:", makefile), target
    assert "`make demo`" in README and "`make test`" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_exists(command: str) -> None:
    words = command.split()
    words = words if words[0] in ("ingest", "bench", "ray") else words[:1]
    done = subprocess.run(
        [sys.executable, "-m", "mealrec.cli", *words, "--help"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, command


def test_every_dependency_has_a_line_in_the_table() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[=<>;\s]", line)[0].lower() for line in project["dependencies"]}
    missing = [n for n in names if n not in README.lower()]
    assert missing == []


def test_the_tables_are_those_of_the_committed_results() -> None:
    from mealrec.bench.report import tables, update
    from mealrec.bench.results import Results
    from mealrec.bench.truth_run import table as truth_table

    folder = ROOT / "benchmarks" / "results"
    made = tables([Results.open(folder / "quality.json")])
    made["truth"] = truth_table(json.loads((folder / "truth.json").read_text()))
    assert update(README, made, "README.md") == README, "run: mealrec bench report ... --readme README.md"


def test_the_tables_of_other_backbones_are_those_of_their_committed_results() -> None:
    from mealrec.bench.report import tables
    from mealrec.bench.results import Results

    found = Results.open(ROOT / "benchmarks" / "results" / "backbones.json")
    for dataset in found.datasets():
        table = tables([found])[f"backbones-{dataset}"]
        assert f"<!-- backbones:{dataset} -->\n{table}\n<!-- /backbones:{dataset} -->" in README, (
            "mealrec bench report benchmarks/results/backbones.json prints it"
        )


def test_the_table_of_sizes_is_that_of_the_committed_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale = importlib.import_module("scale")
    found = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text())
    assert set(found["sizes"]) == set(scale.SIZES) and f"`{found['command']}`" in README
    assert f"<!-- scale -->\n{scale.table(found['sizes'])}\n<!-- /scale -->" in README
    assert max(size["peak_gib"] for size in found["sizes"].values()) < 20


def test_what_sessions_cost_is_the_committed_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sessionize = importlib.import_module("sessionize")
    runs = json.loads((ROOT / "benchmarks" / "results" / "sessionize.json").read_text())["runs"]
    assert f"<!-- sessionize -->\n{sessionize.table(runs)}\n<!-- /sessionize -->" in README


def test_the_load_on_the_endpoint_is_that_of_the_committed_result() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "serving.json").read_text())
    statuses, events, latency = found["by_status"], found["events"], found["latency_ms"]
    by_kind = {kind: sum(n for status, n in statuses.items() if status.startswith(kind)) for kind in ("2", "4", "5")}
    assert by_kind["5"] == statuses["503"] and sum(by_kind.values()) == found["requests"], "every request was answered"
    assert found["wrong"] == [] and (events["lost"], events["written_twice"], events["forgotten"]) == (0, 0, 0)
    figures = [found["requests"], *by_kind.values(), latency["p50"], latency["p99"], events["acknowledged"], 0, 0]
    assert "| " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |" in README
    assert found["command"] in README and found["finished"][:10] in README


def test_the_second_day_is_that_of_the_committed_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    second_day = importlib.import_module("second_day")
    found = json.loads((ROOT / "benchmarks" / "results" / "second_day.json").read_text())
    assert second_day.table(found) in README
    assert second_day.said(found).removeprefix("second day: ") in README
    assert found["command"] in README and found["when"][:10] in README
    events, videos = (found["second"]["stages"][stage] for stage in ("sessionize", "extract"))
    assert events["processed"] < events["rows_in"] / 4 and videos["processed"] < videos["rows_in"] / 4
    assert not any(stage["processed"] for stage in found["again"]["stages"].values())
