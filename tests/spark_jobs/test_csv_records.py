"""CSV in blocks: what Arrow's parser may read gives the records that csv.reader gives, and the rest is left to csv.reader."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import pytest

from spark_jobs import csv_records
from spark_jobs import records as forms
from tests.spark_jobs.test_records import read

HEADER = "timestamp,user_id,event_id,note,watch_ms,device\n"
# of cells that are plain, and of lines that are not
CELLS = (
    '"x"',
    '""',
    '"a,b"',
    '" x "',
    "",
    "x",
    " x ",
    "NA",
    "null",
    "1",
    "-5",
    "1e3",
    "2026-01-05T00:00:00Z",
    "ü",
    "\t",
    "'",
    "x" * 300,
)
ODD = (
    '"two\nlines"',
    '"a ""word"""',
    '"a""',
    'a"b',
    'a"b"',
    '"a"b',
    ' "a"',
    '"a" ',
    'a"',
    "\ufffd",
    "\0",
    "a\rb",
    "too,many",
    '"',
    "x" * 3000,
)


def log(rng: random.Random, rows: int, odd: float) -> bytes:
    """Lines of which a share is not plain, blank ones and bytes that are no text among them."""
    out = [HEADER.encode()]
    for _ in range(rows):
        cells = [rng.choice(CELLS) for _ in range(6)]
        if rng.random() < odd:
            cells[rng.randrange(6)] = rng.choice(ODD)
        out.append(",".join(cells).encode() + rng.choice([b"\n", b"\n", b"\r\n"]))
        if rng.random() < odd:
            out.append(rng.choice([b"\n", b"\r\n", b"a,b\n", b"\xff,1,2,3,4,5\n", b'x","y,1,2,3\n']))
    return b"".join(out)[: -rng.randrange(2)] if rng.random() < 0.5 else b"".join(out)


@pytest.mark.parametrize("seed", range(30))
def test_blocks_give_the_records_that_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(forms, "BLOCK_BYTES", rng.choice([100, 1000, 20_000]))
    path = tmp_path / "a.csv"
    path.write_bytes(log(rng, rng.randrange(200), rng.choice([0, 0, 0.002, 0.02, 0.5])))
    in_blocks = read(path, limit=2000)
    monkeypatch.setattr(csv_records, "_plain", lambda *_: None)
    assert by_line(in_blocks) == by_line(read(path, limit=2000))


@pytest.mark.parametrize("at", [0, 2, 5])
@pytest.mark.parametrize("cell", [*CELLS, *ODD, '"a"b"', 'x","y', '"', '"x,y', 'x"y"z', '"x"y"z"', "''"])
def test_an_odd_cell_among_plain_ones_is_read_as_if_it_were_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: str, at: int
) -> None:
    lines = [["1", "u", "e", "n", "5", "web"] for _ in range(4)]
    for line in lines[1:3]:
        line[at] = cell
    for name, some in (("once", [lines[0], lines[1], lines[3]]), ("twice", lines)):
        (tmp_path / f"{name}.csv").write_text(HEADER + "".join(",".join(line) + "\n" for line in some))
        in_blocks = read(tmp_path / f"{name}.csv", limit=2000)
        with monkeypatch.context() as slowly:
            slowly.setattr(csv_records, "_plain", lambda *_: None)
            assert by_line(in_blocks) == by_line(read(tmp_path / f"{name}.csv", limit=2000))


@pytest.mark.parametrize(
    ("line", "is_plain"),
    [
        *[(line, True) for line in ("a,b", '"a","b"', '"a,b",c', '"",""', 'a,"b"')],
        *[(line, False) for line in ('a"b",c', ' "a",b', '"a"b,c', '"a" ,b', '"a""b",c', '"a', 'x","y', '"a\nb",c')],
    ],
)
def test_quotes_are_plain_around_whole_cells_of_one_line(line: str, is_plain: bool) -> None:
    for block in (f"{line}\n", f'"c",d\n{line}\n', f'{line}\n"c","d"\n'):
        assert csv_records._is_quoted_plainly(block.encode()) == is_plain


def test_most_of_a_log_goes_in_blocks_and_a_line_end_in_quotes_costs_its_block_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "BLOCK_BYTES", 1000)
    plain, sizes = csv_records._plain, []

    def counted(block: bytes, *rest: Any) -> Any:
        batch = plain(block, *rest)
        sizes.append((len(block), batch is not None))
        return batch

    monkeypatch.setattr(csv_records, "_plain", counted)
    rows = [f"1,u{n},e{n},,5,web\n" for n in range(1000)]
    rows[500] = '1,"u\n500",e500,,5,web\n'
    (tmp_path / "a.csv").write_text(HEADER + "".join(rows))
    found = read(tmp_path / "a.csv")
    assert [r["user_id"] for r in found] == ["u\n500" if n == 500 else f"u{n}" for n in range(1000)]
    assert [r["line"] for r in found] == [n + 2 + (n > 500) for n in range(1000)]
    slow = sum(size for size, is_plain in sizes if not is_plain)
    assert 0 < slow < 3000 < sum(size for size, _ in sizes) - slow


def test_a_line_that_is_too_long_is_told_among_short_ones(tmp_path: Path) -> None:
    lengths = [10, 1999, 2000, 2001, 10]
    (tmp_path / "a.csv").write_text("".join(f"{line:<{n}}\n" for line, n in zip("hxyzv", lengths, strict=True)))
    found = by_line(read(tmp_path / "a.csv", limit=2000))
    assert [(r["line"], r["broken"] is not None) for r in found] == [(2, False), (3, False), (4, True), (5, False)]


def test_a_damaged_file_gives_the_records_before_the_damage(tmp_path: Path) -> None:
    text = HEADER + "".join(f"{n},u{n},e{n},,5,web\n" for n in range(20_000))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode())[:-400])
    found = read(tmp_path / "a.csv.gz")
    assert len(found) > 15_000 and "damaged from here on" in found[-1]["broken"]
    assert [r["event_id"] for r in found[:-1]] == [f"e{n}" for n in range(len(found) - 1)]


def by_line(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bad records come after the good ones of their batch."""
    return sorted(rows, key=lambda row: row["line"])
