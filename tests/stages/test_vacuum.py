"""Files that no version of a table refers to go once they are old; all else stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.vacuum import vacuum as weekly
from mealrec.cli import app
from mealrec.config import RunConfig
from mealrec.lake import Lake
from mealrec.presets import preset
from mealrec.schema import QUARANTINE
from mealrec.stages.vacuum import vacuum
from tests.test_lake import part, provenance

WHERE = "stage=extract/ingest_date=2026-01-05"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A committed file, an orphan of eight days and one of today."""
    made = Lake(str(tmp_path / "lake"))
    made.commit_files(QUARANTINE, [part(made, f"{WHERE}/kept.parquet", "future")], provenance("d"), mode="overwrite")
    old = tmp_path / "lake" / QUARANTINE / part(made, f"{WHERE}/old.parquet", "future")
    os.utime(old, times=(time.time() - 8 * 86_400,) * 2)
    os.utime(old.parent / "kept.parquet", times=(time.time() - 8 * 86_400,) * 2)
    part(made, f"{WHERE}/young.parquet", "future")
    return made


def left(lake: Lake) -> list[str]:
    return sorted(path.stem for path in Path(lake.uri(QUARANTINE)).rglob("*.parquet"))


def test_the_command_says_what_would_go_and_then_deletes_it(lake: Lake, tmp_path: Path) -> None:
    words = ["vacuum", "--preset", "demo", "--lake", str(tmp_path / "lake"), "--json"]
    said = CliRunner().invoke(app, [*words, "--dry-run"])
    assert said.exit_code == 0 and left(lake) == ["kept", "old", "young"]
    done = CliRunner().invoke(app, words)
    for answer, is_dry in ((said, True), (done, False)):
        found = json.loads(answer.stdout)
        assert found["dry_run"] is is_dry and set(found["vacuum"]) == {QUARANTINE}
        assert found["vacuum"][QUARANTINE]["files"] == 1 and found["vacuum"][QUARANTINE]["bytes"] > 0
    assert left(lake) == ["kept", "young"] and lake.read(QUARANTINE).num_rows == 1


def test_once_a_week_the_flow_does_the_same(lake: Lake, tmp_path: Path) -> None:
    config = RunConfig.model_validate(preset("demo").model_dump() | {"lake": str(tmp_path / "lake")})
    assert weekly.fn(config) == {QUARANTINE: 1}
    assert left(lake) == ["kept", "young"]


def test_what_a_running_stage_may_be_about_to_commit_is_not_up_for_deletion(lake: Lake) -> None:
    with pytest.raises(ValueError, match="at least 1, and longer than the longest stage"):
        vacuum(lake, orphan_hours=0.5)
