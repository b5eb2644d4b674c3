"""A part is whole or not there, however many write it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pyarrow.parquet as pq
import pytest

from mealrec.features import extract
from mealrec.features.extract import rows_in_part, write_part
from mealrec.lake import Lake
from mealrec.schema import QUARANTINE

PART = "stage=extract/ingest_date=2026-01-05/part-1.parquet"


def test_of_two_writers_of_one_part_at_the_same_time_both_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, together, write = Lake(str(tmp_path)), Barrier(2), pq.write_table

    def at_once(*args: Any, **options: Any) -> None:
        together.wait(30)  # both have begun their file
        write(*args, **options)

    monkeypatch.setattr(extract.pq, "write_table", at_once)
    with ThreadPoolExecutor(2) as pool:
        rows = [{"reason": "missing_file", "key": str(i)} for i in range(3)]
        list(pool.map(lambda _: write_part(lake, QUARANTINE, PART, rows), range(2)))
    assert rows_in_part(lake, QUARANTINE, PART) == 3
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["part-1.parquet"]


def test_a_write_that_ends_in_any_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_part(Lake(str(tmp_path)), QUARANTINE, PART, [{"reason": "missing_file"}, 5])  # type: ignore[list-item]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
