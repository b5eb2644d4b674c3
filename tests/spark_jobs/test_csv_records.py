"""CSV in blocks: what Arrow's parser may read gives the records that csv.reader gives, and the rest is left to csv.reader."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    "12345.0",
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
    '"web',
    '"web,',
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


def is_record(text: str) -> bool:
    """Whether csv alone takes lines for a record whose quotes are in order."""
    try:
        return len(list(csv.reader(io.StringIO(text, newline=""), strict=True))) == 1
    except csv.Error:
        return False


def by_the_rule(lines: list[str]) -> list[tuple[int, str, bool]]:
    """(line, text, whether its quotes are in order) of each record: the fewest lines that are one, or the first line."""
    out, at = [], 0
    while at < len(lines):
        size = next((n for n in range(1, len(lines) - at + 1) if is_record("".join(lines[at : at + n]))), 0)
        out.append((at + 2, "".join(lines[at : at + (size or 1)]).rstrip("\n"), size > 0))
        at += size or 1
    return out


@pytest.mark.parametrize("block_bytes", [50, 2**20])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_stray_quote_costs_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, block_bytes: int
) -> None:
    monkeypatch.setattr(forms, "BLOCK_BYTES", block_bytes)
    path = tmp_path / ("a.csv.gz" if zipped else "a.csv")
    for last in (
        ["web", '"web', "web", "web", '"tv"', "web"],
        ["web", '"web', "web"],
        ["web", "web", '"web'],
        ['"a"b', "web"],
    ):
        text = HEADER + "".join(f"1,u{n},e{n},,5,{cell}\n" for n, cell in enumerate(last))
        path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
        found = by_line(read(path))
        odd = next(n for n, cell in enumerate(last) if cell in ('"web', '"a"b'))
        assert [r["line"] for r in found] == [n + 2 for n in range(len(last))]
        assert [r["event_id"] for r in found] == [None if n == odd else f"e{n}" for n in range(len(last))]
        assert (
            found[odd]["broken"].startswith("not CSV: ") and found[odd]["payload"] == f"1,u{odd},e{odd},,5,{last[odd]}"
        )
        assert {r["device"] for r in found} <= {None, "web", "tv"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(['"web', '"two\nlines"', '""', '"a ""word"""', "x", '"', 'a"', '"a"b'])
        ),
        max_size=9,
    ),
    st.sampled_from([30, 100, 2**20]),
)
def test_every_line_is_in_one_record_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some: list[tuple[int, str]], block_bytes: int
) -> None:
    monkeypatch.setattr(forms, "BLOCK_BYTES", block_bytes)
    rows = [["1", f"u{n}", f"e{n}", "n", "5", "web"] for n in range(len(some))]
    for row, (at, cell) in zip(rows, some, strict=True):
        row[at] = cell
    text = "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "a.csv").write_text(HEADER + text)
    found = by_line(read(tmp_path / "a.csv"))
    told = [(r["line"], r["payload"], not (r["broken"] or "").startswith("not CSV")) for r in found]
    assert told == by_the_rule(text.splitlines(keepends=True))


def test_a_quote_far_from_the_next_one_costs_its_own_line(tmp_path: Path) -> None:
    """Whatever lies between them, long lines and a block's end too; and reading on is not slow for long."""
    rows = [f"1,u{n},e{n},,5,web\n" for n in range(40_000)]
    rows[100], rows[200], rows[30_000] = '1,"u,e,,5,web\n', f"1,u,e,{'x' * 3000},5,web\n", '1,u,e,,5,"web\n'
    (tmp_path / "a.csv").write_text(HEADER + "".join(rows))
    found = by_line(read(tmp_path / "a.csv", limit=2000))
    assert [r["line"] for r in found] == list(range(2, 40_002))
    assert {r["line"]: r["broken"][:8] for r in found if r["broken"]} == {
        102: "not CSV:",
        202: "oversize",
        30_002: "not CSV:",
    }


def test_of_a_damaged_file_no_line_is_lost_to_a_quote_or_taken_by_half(tmp_path: Path) -> None:
    rng = random.Random(1)
    rows = [f"{n},u{rng.random()},e{n},,5,{'x' * (n % 7)}\n" for n in range(5000)]
    rows[3000] = '1,"u,e3000,,5,web\n'
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((HEADER + "".join(rows)).encode())[:-4000])
    *found, last = read(tmp_path / "a.csv.gz")
    found = by_line(found)
    assert len(found) > 3500 and "damaged from here on" in last["broken"]
    assert [(r["line"], r["payload"] + "\n") for r in found] == [
        (n + 2, row) for n, row in enumerate(rows[: len(found)])
    ]
    assert [r["line"] for r in found if r["broken"]] == [3002]


def test_characters_cost_nothing_that_are_none_elsewhere(tmp_path: Path) -> None:
    """U+FFFD and U+0000 are characters like others, as in JSON; bytes that are no text are told."""
    users = [b"a\xef\xbf\xbdb", b"a\0b", b"ab", b"a\xffb"]
    (tmp_path / "a.csv").write_bytes(HEADER.encode() + b"".join(b"1,%s,e,,5,web\n" % user for user in users))
    found = by_line(read(tmp_path / "a.csv"))
    assert [r["user_id"] for r in found] == ["a\ufffdb", "a\0b", "ab", None]
    assert [r["broken"] for r in found] == [None] * 3 + ["the record is not UTF-8 text"]


ROW = b"1,u1,e1,n,5,web\n"


@pytest.mark.parametrize(
    ("header", "rules", "fault"),
    [
        (b"timestamp,user_id,event_id,pr\xe9f,watch_ms,device\n", {}, None),
        (
            b"timestamp,user_id,event_id,pr\xe9f,watch_ms,device\n",
            {"video_id": "pr\u00e9f"},
            "not UTF-8 text, and pr\u00e9f may",
        ),
        (b"timestamp,user_id,event_id,pr\xe9f,watch_ms,watch_ms\n", {}, "several columns watch_ms"),
        ("timestamp,user_id,event_id,pr\u00e9f,watch_ms,device\n".encode(), {"video_id": "pr\u00e9f"}, None),
        (b"timestamp,user_id,event_id,,watch_ms,\n", {}, None),
        (b"timestamp,user_id,event_id,note,watch_ms,note\n", {}, None),
        (b"timestamp,user_id,event_id,user_id,watch_ms,device\n", {}, "several columns user_id"),
        (b"timestamp,user_id,event_id,user_id,watch_ms,device\n", {"user_id": {"constant": "u1"}}, None),
        (b'timestamp,user_id,event_id,"note,watch_ms,device\n', {}, "not CSV"),
        (b"timestamp,user_id,event_id," + b"x" * 3000 + b",watch_ms,device\n", {}, "oversize"),
    ],
)
def test_a_header_that_can_not_be_ours_leaves_out_its_file_and_no_record_takes_its_place(
    tmp_path: Path, header: bytes, rules: dict[str, Any], fault: str | None
) -> None:
    (tmp_path / "a.csv").write_bytes(header + ROW * 3)
    found = read(tmp_path / "a.csv", rules, limit=2000)
    if fault is None:
        assert [(r["line"], r["event_id"], r["user_id"]) for r in found] == [(n, "e1", "u1") for n in (2, 3, 4)]
    else:
        assert [r["line"] for r in found] == [1] and fault in found[0]["broken"]
        assert found[0]["broken"].endswith(": the file is left out")
