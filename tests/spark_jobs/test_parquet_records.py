"""Parquet: what is damaged costs its own rows, what is not the file's fault is not called damage, INT96 is UTC."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spark_jobs import records as forms
from spark_jobs import units
from tests.spark_jobs.test_records import read
from tests.spark_jobs.test_transforms import event

ROWS = [event(n, user_id=f"u{n}", device=f"d{n * 7919 % 1000}") for n in range(3000)]


def overwritten(path: Path, group: int, column: int = 1) -> None:
    """The bytes of a column's pages in a row group, their first header apart."""
    place = pq.read_metadata(path).row_group(group).column(column)
    begin = place.dictionary_page_offset or place.data_page_offset
    data = bytearray(path.read_bytes())
    data[begin + 60 : begin + place.total_compressed_size] = b"\xa5" * (place.total_compressed_size - 60)
    path.write_bytes(data)


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "none"])
@pytest.mark.parametrize("together", [1000, 65_536])
def test_a_damaged_page_costs_its_row_group_and_not_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, together: int
) -> None:
    monkeypatch.setattr(forms, "BATCH_ROWS", together)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist(ROWS), path, compression=compression, row_group_size=1000, write_page_checksum=True
    )
    overwritten(path, group=1)
    found = read(path)
    assert [(r["line"], "from this row on row group 1 is damaged" in r["broken"]) for r in found if r["broken"]] == [
        (1001, True)
    ]
    left = [n for n in range(3000) if not 1000 <= n < 2000]
    assert [(r["line"], r["event_id"]) for r in found if not r["broken"]] == [(n + 1, f"e{n}") for n in left]


def test_rows_before_the_damage_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "BATCH_ROWS", 100)
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist(ROWS),
        path,
        data_page_size=512,
        use_dictionary=False,
        compression="none",
        write_batch_size=64,
    )
    data = path.read_bytes()
    at = data.index(b"u1500")
    path.write_bytes(data[: at - 4] + b"\xff\xff\xff\x7f" + data[at:])  # the length of its text
    found = read(path)
    assert 1000 < len(found) <= 1501 and [r["broken"] is not None for r in found] == [False] * (len(found) - 1) + [True]
    assert [r["event_id"] for r in found[:-1]] == [f"e{n}" for n in range(len(found) - 1)]
    assert found[-1]["line"] == len(found)


def test_what_the_system_can_not_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an hour's trouble with a disk or with rights would leave out files that are whole."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(pq.ParquetFile, "iter_batches", failing)
        with pytest.raises(OSError, match="Input/output"):
            read(path)
    (part,) = units.parts_of([str(path)], [0], lambda parts: [])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        list(forms.records(part, forms.Columns({}), 2**20))


def test_a_column_that_is_there_twice_matters_where_it_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "UNIT_BYTES", 1)
    table = pa.Table.from_pylist(ROWS[:3])
    pq.write_table(
        table.append_column("note", table["device"]).append_column("note", table["device"]), tmp_path / "a.parquet"
    )
    assert [r["event_id"] for r in read(tmp_path / "a.parquet")] == ["e0", "e1", "e2"]
    path = tmp_path / "b.parquet"
    pq.write_table(table.append_column("user_id", table["device"]), path, row_group_size=1)
    assert [r["broken"] for r in read(path)] == ["there are several columns user_id: the file is left out"]
    assert [r["user_id"] for r in read(path, {"user_id": {"constant": "x"}})] == ["x"] * 3


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("zone", ["UTC", None])
def test_spark_s_int96_is_utc(tmp_path: Path, store_schema: bool, zone: str | None) -> None:
    """In years too that nanoseconds of 64 bits do not reach."""
    expected = [1_767_600_000_123, None, -86_400_001, 32_503_680_000_000]
    times = pa.array([None if ms is None else ms * 1000 + 999 for ms in expected], pa.timestamp("us", zone))
    table = pa.table({"event_id": ["a", "b", "c", "d"], "timestamp": times})
    pq.write_table(
        table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True, store_schema=store_schema, flavor="spark"
    )
    for rules in ({}, {"timestamp": {"zone": "Asia/Kolkata"}}):  # of times without a zone, which these are not
        found = read(tmp_path / "a.parquet", rules)
        assert [(r["timestamp_ms"], r["wrong"]) for r in found] == [(ms, None) for ms in expected]


def test_damage_that_a_checksum_alone_can_tell_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    for checksum in (False, True):
        pq.write_table(pa.Table.from_pylist(ROWS), path, write_page_checksum=checksum, **plain)
        path.write_bytes(path.read_bytes().replace(b"u1500", b"u9999"))
        assert any(r["broken"] for r in read(path)) == checksum
