"""The Delta layer: one commit or nothing, pinned versions, clean conflicts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from mealrec.features.extract import write_part
from mealrec.lake import DIGEST_KEY, Lake, Provenance, count_by
from mealrec.schema import ITEMS, QUARANTINE, SCHEMAS, SEQUENCES


def provenance(digest: str, stage: str = "test") -> Provenance:
    return Provenance(stage, digest, "run", {"other": 3}, {"rows_out": 1})


def part(lake: Lake, path: str, *reasons: str) -> str:
    write_part(lake, QUARANTINE, path, [{"reason": reason, "key": path} for reason in reasons])
    return path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def reasons(lake: Lake, version: int | None = None) -> list[str]:
    return sorted(lake.read(QUARANTINE, version)["reason"].to_pylist())


def test_files_are_invisible_until_committed_and_then_all_there(lake: Lake) -> None:
    path = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file", "empty_file")
    assert not lake.exists(QUARANTINE)
    assert lake.commit_files(QUARANTINE, [path], provenance("d1"), mode="overwrite") == 0
    assert reasons(lake) == ["empty_file", "missing_file"]
    assert lake.read(QUARANTINE)["stage"].to_pylist() == ["extract", "extract"]


def test_one_partition_is_replaced_and_older_versions_stay_readable(lake: Lake) -> None:
    mine = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file")
    other = part(lake, "stage=sessionize/ingest_date=2026-01-05/b.parquet", "future")
    lake.commit_files(QUARANTINE, [mine, other], provenance("d1"), mode="overwrite")
    fresh = part(lake, "stage=extract/ingest_date=2026-01-06/c.parquet", "unreadable")
    lake.commit_files(
        QUARANTINE, [fresh], provenance("d2"), mode="overwrite", partition_filters=[("stage", "=", "extract")]
    )
    assert reasons(lake) == ["future", "unreadable"]
    assert reasons(lake, 0) == ["future", "missing_file"]
    assert lake.files(QUARANTINE) == [fresh, other]


def test_files_come_and_go_in_one_version(lake: Lake) -> None:
    old, kept = (part(lake, f"stage=extract/ingest_date=2026-01-05/{n}.parquet", n) for n in ("future", "too_late"))
    lake.commit_files(QUARANTINE, [old, kept], provenance("d1"), mode="append")
    new = part(lake, "stage=extract/ingest_date=2026-01-06/new.parquet", "unreadable")
    assert lake.commit_files(QUARANTINE, [new], provenance("d2"), mode="append", removes=[old]) == 1
    assert reasons(lake) == ["too_late", "unreadable"] and reasons(lake, 0) == ["future", "too_late"]


def test_a_partition_can_be_emptied(lake: Lake) -> None:
    mine = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file")
    lake.commit_files(QUARANTINE, [mine], provenance("d1"), mode="overwrite")
    lake.commit_files(QUARANTINE, [], provenance("d2"), mode="overwrite", partition_filters=[("stage", "=", "extract")])
    assert reasons(lake) == []


def test_a_stage_finds_its_own_last_commit_among_others(lake: Lake) -> None:
    first = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file")
    second = part(lake, "stage=sessionize/ingest_date=2026-01-05/b.parquet", "future")
    lake.commit_files(QUARANTINE, [first], provenance("d1", "extract"), mode="append")
    lake.commit_files(QUARANTINE, [second], provenance("d2", "sessionize"), mode="append")
    found = lake.committed(QUARANTINE, "extract", "d1")
    assert found is not None and found.version == 0
    assert found.metadata["mealrec.run_id"] == "run" and found.metadata["mealrec.inputs"] == '{"other": 3}'
    assert lake.committed(QUARANTINE, "extract", "d2") is None
    assert lake.committed(ITEMS, "extract", "d1") is None


def test_a_commit_that_comes_while_the_log_is_listed_gives_no_other_its_number(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit(day: str) -> int:
        path = part(lake, f"stage=extract/ingest_date=2026-01-{day}/a.parquet", "future")
        return lake.commit_files(QUARANTINE, [path], provenance(day), mode="append")

    commit("05"), commit("06")
    history = DeltaTable.history

    def another_comes_first(table: DeltaTable, limit: int | None = None) -> list[dict[str, Any]]:
        monkeypatch.setattr(DeltaTable, "history", history)
        commit("07")
        return history(table, limit)

    monkeypatch.setattr(DeltaTable, "history", another_comes_first)
    numbered = {c.metadata[DIGEST_KEY]: c.version for c in lake.history(QUARANTINE)}
    assert numbered == {"05": 0, "06": 1, "07": 2}


def test_two_writers_of_the_same_rows_conflict_and_one_wins(lake: Lake) -> None:
    path = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file")
    lake.commit_files(QUARANTINE, [path], provenance("d1"), mode="overwrite")
    stale = DeltaTable(lake.uri(QUARANTINE))  # a writer that read before the other one committed
    winner = part(lake, "stage=extract/ingest_date=2026-01-05/b.parquet", "empty_file")
    lake.commit_files(QUARANTINE, [winner], provenance("d2"), mode="overwrite")
    loser = part(lake, "stage=extract/ingest_date=2026-01-05/c.parquet", "unreadable")
    with pytest.raises((CommitFailedError, DeltaError)):
        stale.create_write_transaction(
            [lake._add_action(QUARANTINE, loser)],
            mode="overwrite",
            schema=SCHEMAS[QUARANTINE],
            partition_by=["stage", "ingest_date"],
            commit_properties=provenance("d3").properties(),
        )
    assert reasons(lake) == ["empty_file"]


def test_small_tables_are_written_and_replaced_from_the_driver(lake: Lake) -> None:
    rows = pa.Table.from_pylist(
        [{"video_id": "a", "item_index": 1}, {"video_id": "b", "item_index": 2}], schema=SCHEMAS[ITEMS]
    )
    assert lake.write(ITEMS, rows, provenance("d1")) == 0
    assert lake.write(ITEMS, rows.slice(0, 1), provenance("d2")) == 1
    assert lake.read(ITEMS)["video_id"].to_pylist() == ["a"]
    assert lake.read(ITEMS, 0).num_rows == 2


@pytest.fixture(scope="module")
def old_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with one commit a night for 131 nights, the last of them last night."""
    root = tmp_path_factory.mktemp("old") / "lake"
    lake, rows = Lake(str(root)), pa.Table.from_pylist([], schema=SCHEMAS[QUARANTINE])
    for _ in range(131):
        lake.write(QUARANTINE, rows, provenance("d"))
    for log in (root / QUARANTINE / "_delta_log").glob("0*"):
        os.utime(log, times=(time.time() - (131 - int(log.name[:20])) * 86_400,) * 2)
    return root


@pytest.mark.parametrize("how", ["write", "commit_files", "append_at"])
def test_old_versions_can_be_opened_for_ever(old_table: Path, tmp_path: Path, how: str) -> None:
    """Delta would delete the log before its checkpoint at the hundredth commit, once that is older than 30 days."""
    lake = Lake(str(shutil.copytree(old_table, tmp_path / "lake")))
    rows = pa.Table.from_pylist([], schema=SCHEMAS[QUARANTINE])
    if how == "write":
        lake.write(QUARANTINE, rows, provenance("d"))
    elif how == "commit_files":
        lake.commit_files(QUARANTINE, [], provenance("d"), mode="append")
    else:
        lake.append_at(QUARANTINE, 130, rows, provenance("d"))
    assert list((tmp_path / "lake" / QUARANTINE / "_delta_log").glob("*.checkpoint.parquet"))
    assert reasons(lake, 0) == [] and lake.versions(QUARANTINE) == list(range(132))


def forget(lake: Lake, table: str) -> None:
    """What Delta does to a table whose versions are all old: the log before its newest one goes."""
    for log in Path(lake.uri(table), "_delta_log").glob("*.json"):
        os.utime(log, times=(time.time() - 40 * 86_400,) * 2)
    DeltaTable(lake.uri(table)).create_checkpoint()
    DeltaTable(lake.uri(table)).cleanup_metadata()


def test_versions_that_can_be_opened_go_back_to_the_first_or_to_a_checkpoint(lake: Lake) -> None:
    assert lake.versions(QUARANTINE) == []
    for number in range(4):
        lake.commit_files(QUARANTINE, [part(lake, f"{number}.parquet", str(number))], provenance("d"), mode="append")
        if number == 2:
            forget(lake, QUARANTINE)
    assert lake.versions(QUARANTINE) == [2, 3] and reasons(lake, 2) == ["0", "1", "2"]
    with pytest.raises(DeltaError):
        lake.files(QUARANTINE, 1)
    log = Path(lake.uri(QUARANTINE), "_delta_log")
    (log / f"{3:020}.json").rename(log / f"{4:020}.json")
    assert lake.versions(QUARANTINE) == [2]


def test_a_missing_table_names_itself_and_an_unknown_one_the_valid_ones(lake: Lake) -> None:
    with pytest.raises(ValueError, match="'sequences' does not exist"):
        lake.at(SEQUENCES)
    with pytest.raises(ValueError, match="interactions, quarantine, inputs, items"):
        lake.uri("sequence")


def test_a_process_that_ends_right_after_it_has_read_ends_well(lake: Lake) -> None:
    lake.commit_files(QUARANTINE, [part(lake, "a.parquet", "missing_file")], provenance("d1"), mode="overwrite")
    code = f"from mealrec.lake import Lake; Lake({lake.root!r}).read({QUARANTINE!r})"
    assert [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(5)] == [0] * 5


def test_an_object_store_lake_needs_a_local_work_folder() -> None:
    with pytest.raises(ValueError, match="give a local work folder"):
        Lake("s3://bucket/lake")


def test_counts_by_value() -> None:
    assert count_by(pa.table({"reason": ["b", "a", "b"]}), "reason") == {"a": 1, "b": 2}
    assert count_by(pa.table({"reason": pa.array([], pa.string())}), "reason") == {}
