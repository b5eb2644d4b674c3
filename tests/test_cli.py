"""The command line as scripts see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "mealrec.cli"]
COMMANDS = (
    "demo",
    "run",
    "simulate",
    "ingest ninerec",
    "ingest microlens",
    "sessionize",
    "extract",
    "profile",
    "train",
    "evaluate",
    "drift",
    "promote",
    "stage",
    "ray submit",
    "ray follow",
    "ray status",
    "ray cancel",
    "rollback",
    "vacuum",
    "recommend",
    "report",
    "presets",
)


def mealrec(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = mealrec(*command.split(), "--help")
    assert done.returncode == 0
    assert f"mealrec.cli {command}" in done.stdout.replace("python -m ", "") or "Usage" in done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_help_comes_without_loading_the_engines() -> None:
    code = (
        "import sys; sys.argv = ['mealrec', '--help']\n"
        "from mealrec.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'prefect', 'pyspark'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--preset", "demo", "--set", "train.epohs=2"], "train.epohs: unknown key; valid keys here"),
        (["run", "--preset", "dmo"], "unknown preset 'dmo'; valid presets: demo"),
        (["run", "--config", "nowhere.json"], "nowhere.json"),
        (["ingest", "ninerec", "nowhere", "--lake", "x"], "nowhere is not a folder"),
        (["train", "--preset", "demo", "--lake", "empty"], "table 'sequences' does not exist"),
        (["extract", "--videos", "nowhere", "--lake", "x"], "nowhere is not a folder"),
        (["rollback", "--preset", "demo", "--lake", "empty"], "nothing to roll back: no champion"),
        (
            ["stage", "extrakt"],
            "unknown stage 'extrakt'; valid stages: ingest, sessionize, sequences, extract, profile, train",
        ),
        (["ray", "submit", "extrakt"], "unknown stage 'extrakt'; valid stages: ingest, sessionize, sequences, extract"),
        (["ray", "submit", "extract", "--set", "train.epohs=2"], "train.epohs: unknown key"),
        (["wun"], "No such command 'wun'"),
    ],
)
def test_a_mistake_of_the_user_ends_with_status_2_and_its_name(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    done = mealrec(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_recommending_without_a_champion_says_what_to_do_and_ends_with_status_1(tmp_path: Path) -> None:
    done = mealrec("recommend", "--preset", "demo", "--lake", str(tmp_path))
    assert done.returncode == 1 and "mealrec promote" in done.stderr


@pytest.mark.media
def test_json_is_the_last_thing_on_stdout(tmp_path: Path) -> None:
    small = ["--videos", "8", "--viewers", "8", "--days", "2"]
    done = mealrec("simulate", str(tmp_path / "landing"), *small, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows"]["written"] > 0
    assert "rendered" in done.stderr  # progress goes to stderr


def test_a_preset_can_be_printed_and_used_as_a_file(tmp_path: Path) -> None:
    printed = mealrec("presets", "demo").stdout
    (tmp_path / "mine.json").write_text(printed)
    done = mealrec("run", "--config", str(tmp_path / "mine.json"), "--set", "seed=-1", cwd=tmp_path)
    assert done.returncode == 2 and "seed" in done.stderr
