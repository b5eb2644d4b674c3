"""Log records of ours: where they were made, and no secrets in them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mealrec import logs

CANARY = "c4n4ry-Pa55"


@pytest.fixture
def log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Installed for one test; the process gets its own records back."""
    logger = logging.getLogger(logs.LOGGER)
    before = (logging.getLogRecordFactory(), list(logger.handlers), logger.level)
    monkeypatch.setenv(logs.VARIABLE, "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    logger.handlers = []
    logs.install(str(tmp_path / "deep" / "run.jsonl"))
    yield tmp_path / "deep" / "run.jsonl"
    logging.setLogRecordFactory(before[0])
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level = before[1], before[2]


def test_a_line_says_when_who_where_and_what(log_file: Path) -> None:
    log = logging.getLogger("mealrec.train")
    with logs.inside("train", run_id="r1", attempt=2):
        log.info("epoch %d\nof %s", 3, "many")
    log.warning("after")
    logs.install()  # a second call opens nothing more
    first, second = (json.loads(line) for line in log_file.read_text().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "INFO",
        "logger": "mealrec.train",
        "stage": "train",
        "run_id": "r1",
        "attempt": 2,
        "message": "epoch 3\nof many",
    }
    assert (second["stage"], second["run_id"], second["attempt"]) == ("", "", 1)


def test_secrets_are_blotted_out_of_messages_arguments_and_tracebacks(log_file: Path) -> None:
    log = logging.getLogger("mealrec.any")
    try:
        raise RuntimeError(f"postgresql://me:{CANARY}@host refused")
    except RuntimeError:
        log.exception("signed %s", CANARY)
    text = log_file.read_text()
    assert CANARY not in text
    line = json.loads(text)
    assert line["message"] == "signed ***" and "RuntimeError: postgresql://***@host refused" in line["error"]


def test_other_handlers_get_records_without_secrets_too(log_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("somebody.else").warning("password=%s", CANARY)
    assert caplog.messages == ["password=***"] and CANARY not in caplog.text


def test_every_command_writes_json_lines_where_it_is_told(tmp_path: Path) -> None:
    """The lines of a stage, to a file beside the readable ones, and to stderr instead of them."""

    def extract(target: str, lake: str) -> subprocess.CompletedProcess[str]:
        settings = ["--set", "features.max_quarantine_share=1"]
        command = ["--log-json", target, "stage", "ingest", "--preset", "demo", "--lake", lake, *settings]
        more = ["--set", "source.videos=8", "--set", "source.viewers=8", "--set", "source.days=2"]
        return subprocess.run(
            [sys.executable, "-m", "mealrec.cli", *command, *more],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )

    lake, file = str(tmp_path / "lake"), tmp_path / "run.jsonl"
    readable = extract(str(file), lake).stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines and {(line["stage"], line["attempt"]) for line in lines} == {("ingest", 1)}
    assert "mealrec.ingest" in readable and not readable.startswith("{")
    instead = extract("-", lake).stderr.splitlines()
    assert [json.loads(line)["logger"] for line in instead] == ["mealrec.ingest"]


def test_a_target_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "mealrec.cli", "--log-json", str(tmp_path / "file" / "x"), "presets"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2 and "--log-json" in done.stderr
