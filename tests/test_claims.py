"""Fencing: whoever was overtaken commits nothing."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from mealrec.claims import CLAIMS, Claim, Overtaken, newest, release, take
from mealrec.features.extract import write_part
from mealrec.lake import Lake, Provenance
from mealrec.schema import FEATURES, ITEMS, QUARANTINE, SCHEMAS


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def made(claim: Claim, run: str) -> Provenance:
    return Provenance(claim.stage, "same digest", run, claim=claim)


def commit(lake: Lake, claim: Claim, run: str) -> int:
    """One row of quarantine, appended as extract appends its parts."""
    part = f"stage={claim.stage}/ingest_date=2026-01-05/{run}.parquet"
    write_part(lake, QUARANTINE, part, [{"reason": "missing_file", "key": run}])
    return lake.commit_files(QUARANTINE, [part], made(claim, run), mode="append")


def keys(lake: Lake) -> list[str]:
    return sorted(lake.read(QUARANTINE)["key"].to_pylist())


def test_a_run_that_was_overtaken_commits_nothing_and_says_by_whom(lake: Lake) -> None:
    first = lake.claim("extract", "run-1", QUARANTINE)
    second = lake.claim("extract", "run-2", QUARANTINE)
    with pytest.raises(Overtaken, match=r"taken over by a newer run run-2 \(claim 2, this one holds 1\)"):
        commit(lake, first, "run-1")
    assert not lake.exists(QUARANTINE)
    assert commit(lake, second, "run-2") == 0
    with pytest.raises(Overtaken):
        commit(lake, first, "run-1")
    assert keys(lake) == ["run-2"]


def test_a_claim_that_is_given_back_is_waited_for_by_nobody_and_a_newer_one_still_is(lake: Lake) -> None:
    first = lake.claim("extract", "run-1", FEATURES, QUARANTINE)
    release(lake.root, first, "run-1")
    assert [(one.number, one.run_id, one.tables) for one in newest(lake.root)] == [(1, "run-1", ())]
    second = lake.claim("extract", "run-2", QUARANTINE)
    release(lake.root, first, "run-1")
    assert [(one.number, one.run_id, one.tables) for one in newest(lake.root)] == [(2, "run-2", (QUARANTINE,))]
    assert commit(lake, second, "run-2") == 0


def test_small_tables_and_effects_outside_the_lake_are_fenced_too(lake: Lake) -> None:
    first = lake.claim("sequences", "run-1", ITEMS)
    lake.claim("sequences", "run-2", ITEMS)
    rows = pa.Table.from_pylist([{"video_id": "a", "item_index": 1}], schema=SCHEMAS[ITEMS])
    with pytest.raises(Overtaken):
        lake.write(ITEMS, rows, made(first, "run-1"))
    with pytest.raises(Overtaken):
        lake.check(first)
    assert not lake.exists(ITEMS)


def test_what_an_older_run_slipped_in_after_the_claim_stops_the_newer_one(lake: Lake) -> None:
    """An older run that had passed its check when it was stopped commits just after the newer one pinned its base."""
    older = lake.claim("extract", "run-1", QUARANTINE)
    newer = lake.claim("extract", "run-2", QUARANTINE)
    part = "stage=extract/ingest_date=2026-01-05/run-1.parquet"
    write_part(lake, QUARANTINE, part, [{"reason": "missing_file", "key": "run-1"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mealrec.claims.check", lambda root, claim: None)
        lake.commit_files(QUARANTINE, [part], made(older, "run-1"), mode="append")
    with pytest.raises(Overtaken, match="was committed by another run"):
        commit(lake, newer, "run-2")
    assert keys(lake) == ["run-1"]


def test_beside_a_table_that_decides_an_older_run_stops_nobody(lake: Lake) -> None:
    """What it left there is named by no commit of the table that decides."""
    tables = (QUARANTINE, ITEMS)
    older, newer = (lake.claim("sessionize", run, *tables, decides=ITEMS) for run in ("run-1", "run-2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mealrec.claims.check", lambda root, claim: None)
        commit(lake, older, "run-1")
    commit(lake, newer, "run-2")
    rows = pa.Table.from_pylist([{"video_id": "a", "item_index": 1}], schema=SCHEMAS[ITEMS])
    with pytest.raises(Overtaken, match="this one's result does not count"):
        lake.write(ITEMS, rows, made(older, "run-1"))
    assert lake.write(ITEMS, rows, made(newer, "run-2")) == 0


def test_delta_itself_refuses_a_second_commit_prepared_on_the_same_version(lake: Lake) -> None:
    commit(lake, lake.claim("extract", "run-1", QUARANTINE), "run-1")
    claim = lake.claim("extract", "run-2", QUARANTINE)
    stale = lake.at(QUARANTINE)
    commit(lake, claim, "run-2")
    with pytest.raises(Exception, match="Concurrent transaction"):
        stale.create_write_transaction(
            [],
            mode="append",
            schema=SCHEMAS[QUARANTINE],
            partition_by=["stage", "ingest_date"],
            commit_properties=made(claim, "run-2").properties(),
        )
    assert keys(lake) == ["run-1", "run-2"]


def test_stages_that_share_a_table_do_not_overtake_each_other(lake: Lake) -> None:
    mine = lake.claim("extract", "run-1", QUARANTINE)
    other = lake.claim("sessionize", "run-2", QUARANTINE)
    commit(lake, other, "run-2")
    commit(lake, mine, "run-1")
    assert keys(lake) == ["run-1", "run-2"]


def test_a_claim_travels_to_the_process_that_commits(lake: Lake) -> None:
    claim = lake.claim("extract", "run-1", QUARANTINE, FEATURES)
    assert Claim.from_json(claim.to_json()) == claim


def test_runs_that_begin_together_get_different_claims(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: take(str(tmp_path), "train", f"run-{n}"), range(8)))
    assert sorted(numbers) == list(range(1, 9))


def test_a_claim_is_remembered_however_old_it_is_and_however_many_came_later(tmp_path: Path) -> None:
    """Vacuum keeps the files of a stage that has not committed: it asks for all claims. Delta would delete the log before its
    checkpoint at the hundredth commit, once that is older than 30 days."""
    take(str(tmp_path), "extract", "stopped", [FEATURES])
    for number in range(101):
        take(str(tmp_path), "train", f"run-{number}")
    log = tmp_path / CLAIMS / "_delta_log"
    assert list(log.glob("*.checkpoint.parquet"))
    for path in log.glob("0*"):
        os.utime(path, times=(time.time() - 40 * 86_400,) * 2)
    take(str(tmp_path), "train", "last")
    assert {claim.stage: (claim.number, claim.run_id, claim.tables) for claim in newest(str(tmp_path))} == {
        "extract": (1, "stopped", (FEATURES,)),
        "train": (102, "last", ()),
    }
