"""Files that no version of a table refers to go once they are old; all else stays."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.vacuum import vacuum as weekly
from mealrec.cli import app
from mealrec.config import RunConfig
from mealrec.lake import Lake
from mealrec.presets import preset
from mealrec.schema import INTERACTIONS, ITEMS, QUARANTINE
from mealrec.stages.vacuum import Unfinished, clean, vacuum
from tests.test_lake import forget, part, provenance

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


def test_what_a_version_needs_stays_also_where_a_newer_one_does_not(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for name in ("a", "b"):
        lake.commit_files(QUARANTINE, [part(lake, f"{WHERE}/{name}.parquet", name)], provenance(name), mode="overwrite")
    orphan = part(lake, f"{WHERE}/orphan.parquet", "future")
    assert clean(lake, QUARANTINE, orphan_hours=1) == []  # too young: a writer may still be at work
    assert [o.path for o in clean(lake, QUARANTINE, orphan_hours=0, dry_run=True)] == [orphan]  # and it is still there
    (deleted,) = clean(lake, QUARANTINE, orphan_hours=0)
    assert deleted.path == orphan and deleted.size > 0
    assert clean(lake, QUARANTINE, orphan_hours=0) == []
    assert [lake.read(QUARANTINE, version)["reason"].to_pylist() for version in (0, 1)] == [["a"], ["b"]]


def test_versions_whose_log_is_gone_are_passed_over(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    for name in ("a", "b", "c"):
        path = part(lake, f"{WHERE}/{name}.parquet", name)
        lake.commit_files(QUARANTINE, [path], provenance(name), mode="overwrite")
        if name == "b":
            forget(lake, QUARANTINE)
    assert [o.path for o in clean(lake, QUARANTINE, orphan_hours=0)] == [f"{WHERE}/a.parquet"]
    assert [lake.read(QUARANTINE, version)["reason"].to_pylist() for version in (1, 2)] == [["b"], ["c"]]


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


def test_what_a_stage_has_not_committed_yet_stays_however_old_it_is(lake: Lake) -> None:
    lake.claim("train", "r0")  # commits no table: nobody waits for it
    claim = lake.claim("extract", "r1", QUARANTINE)
    assert vacuum(lake, orphan_hours=24) == {} and left(lake) == ["kept", "old", "young"]
    with pytest.raises(Unfinished, match=r"quarantine: stage 'extract' \(run r1\) has not committed"):
        clean(lake, QUARANTINE, orphan_hours=0)
    mine = part(lake, f"{WHERE}/mine.parquet", "future")
    lake.commit_files(QUARANTINE, [mine], replace(provenance("d2", "extract"), claim=claim), mode="append")
    lake.claim("sessionize", "r2", INTERACTIONS, ITEMS)  # of other tables
    assert [o.path for o in vacuum(lake, orphan_hours=24)[QUARANTINE]] == [f"{WHERE}/old.parquet"]
    assert left(lake) == ["kept", "mine", "young"]
    lake.claim("extract", "r3", QUARANTINE)
    assert vacuum(lake, orphan_hours=1) == {}


def test_a_wrong_lake_or_a_minute_is_a_mistake(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        vacuum(lake, orphan_hours=0.1)
    with pytest.raises(ValueError, match="elsewhere' holds no table"):
        vacuum(Lake(str(tmp_path / "elsewhere")), orphan_hours=24)
