"""The catalogue: what is wrong with a row costs that row, and what is wrong with the file is said."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mealrec.config import ConfigError, load
from mealrec.schema import CATALOGUE_REASONS
from mealrec.sources.catalogue import MAX_PAYLOAD, BadRow, read_catalogue
from mealrec.sources.errors import SourceError
from mealrec.sources.landing import locate

LONG = "x" * 3_000_000
GOOD = {"video_id": "g", "uri": "g.mp4", "title": "good"}


def videos(path: Path) -> dict[str, tuple[str | None, str | None]]:
    return {row["video_id"]: (row["uri"], row["title"]) for row in read_catalogue(path).videos.to_pylist()}


def bad(path: Path) -> list[tuple[int, str, str | None]]:
    return [(row.line, row.reason, row.video_id) for row in read_catalogue(path).bad]


def jsonl(path: Path, *lines: bytes | dict[str, Any]) -> Path:
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines))
    return path


def test_a_bad_line_costs_itself_alone(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "catalogue.jsonl",
        {"video_id": "b", "title": "first"},
        {"video_id": "l", "title": LONG},
        b'{"video_id": "x", "title": "caf\xe9"}',
        b"",
        {"video_id": "b", "title": "second"},
        {"uri": "nobody.mp4"},
        {"video_id": " "},
        {"video_id": "o", "title": ["no", "text"]},
        {"video_id": {}},
        b'{"video_id": "h',
        b"[]",
        b'{"video_id": NaN}',
        {**GOOD, "another field": LONG},
    )
    assert videos(path) == {"b": (None, "first"), "g": ("g.mp4", "good")}
    assert bad(path) == [
        (2, "oversize_field", "l"),
        (3, "unparseable", None),
        (5, "duplicate_video", "b"),
        (6, "missing_key", None),
        (7, "missing_key", " "),
        (8, "bad_type", "o"),
        (9, "bad_type", None),
        (10, "unparseable", None),
        (11, "unparseable", None),
        (12, "missing_key", None),
    ]
    found = read_catalogue(path).bad
    assert len(found[0].payload) == MAX_PAYLOAD and found[0].detail == "longer than 1048576 bytes: title"
    assert found[1] == BadRow(
        3,
        "unparseable",
        "the line is not a JSON object in UTF-8",
        '{"video_id": "x", "title": "caf\ufffd"}',
        None,
    )
    assert found[2].detail == "an earlier row names b" and found[5].detail == "not text: title"
    assert {row.reason for row in found} == set(CATALOGUE_REASONS)


def text(path: Path, *titles: bytes) -> None:
    """Parquet with these titles, whether they are text or not."""
    names = pa.array([f"v{n}" for n in range(len(titles))])
    pq.write_table(pa.table({"video_id": names, "title": pa.array(titles, pa.binary()).view(pa.string())}), path)


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("catalogue.jsonl", lambda path: jsonl(path, GOOD, b'{"video_id": "x", "title": "caf\xe9"}'), "unparseable"),
        ("catalogue.jsonl", lambda path: jsonl(path, {"video_id": "x", "title": LONG}, GOOD), "oversize_field"),
        ("catalogue.jsonl", lambda path: jsonl(path, GOOD, GOOD | {"title": "again"}), "duplicate_video"),
        ("catalogue.jsonl", lambda path: jsonl(path, GOOD, {"video_id": "\t"}), "missing_key"),
        ("catalogue.csv", lambda path: path.write_bytes(b"video_id,title\ng,good\nx,caf\xe9\n"), "unparseable"),
        ("catalogue.csv", lambda path: path.write_text(f"video_id,title\nx,{LONG}\ng,good\n"), "oversize_field"),
        ("catalogue.csv", lambda path: path.write_text("video_id,title\ng,good\ng,again\n"), "duplicate_video"),
        ("catalogue.csv", lambda path: path.write_text("video_id,title\ng,good\n,none\n"), "missing_key"),
        ("catalogue.parquet", lambda path: text(path, b"good", b"caf\xe9"), "bad_type"),
        ("catalogue.parquet", lambda path: text(path, b"good", LONG.encode()), "oversize_field"),
    ],
)
def test_one_bad_row_among_good_ones_is_noticed(
    tmp_path: Path, name: str, write: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path / name)
    found = read_catalogue(tmp_path / name)
    assert found.videos["title"].to_pylist() == ["good"] and [row.reason for row in found.bad] == [reason]


def test_a_line_without_an_end_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.jsonl"
    with path.open("wb") as file:
        file.write(b'{"video_id": "')
        file.truncate(50_000_000)
        file.seek(0, 2)
        file.write(b'"}\n{"video_id": "g"}\n')
    assert videos(path) == {"g": (None, None)}
    assert bad(path) == [(1, "oversize_field", None)]


def test_a_title_of_megabytes_and_other_odd_cells_of_a_csv_cost_their_row(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    rows = [
        b"title,video_id,more",
        b'"two\nlines",b,',
        LONG.encode() + b",l,",
        b"caf\xe9,x,",
        b"too,few",
        b"",
        b"a,b,c",
        b"none,,",
        b'"a ""quoted"" word",g,\xef\xbf\xbd',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows) + b"\r\n")
    assert videos(path) == {"b": (None, "two\nlines"), "g": (None, 'a "quoted" word')}
    assert bad(path) == [
        (4, "oversize_field", None),
        (5, "unparseable", "x"),
        (6, "unparseable", "few"),
        (8, "duplicate_video", "b"),
        (9, "missing_key", None),
    ]
    details = [row.detail for row in read_catalogue(path).bad]
    assert details[1:3] == ["the record is not UTF-8 text", "expected 3 cells as in the header, found 2"]


def test_a_stray_quote_costs_its_own_line_and_swallows_no_other(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text('video_id,title\ng,5" good\na,"open\nb,next\nc,"shut"\nd,"two\nlines"\n')
    assert videos(path) == {"b": (None, "next"), "c": (None, "shut"), "d": (None, "two\nlines"), "g": (None, '5" good')}
    assert [row[:2] + row[3:] for row in read_catalogue(path).bad] == [(3, "unparseable", 'a,"open', None)]
    path.write_text('video_id,title\ng,good\na,"open\nb,next\n')
    assert videos(path) == {"b": (None, "next"), "g": (None, "good")}
    path.write_text('"video_id,title\ng,good\n')
    with pytest.raises(SourceError, match="the header is not CSV"):
        read_catalogue(path)


def test_a_parquet_cell_that_is_no_text_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.parquet"
    titles = pa.array([b"good", b"caf\xe9", LONG.encode(), None, b"again"], pa.binary())
    pq.write_table(pa.table({"video_id": ["g", "x", "l", None, "g"], "title": titles.view(pa.string())}), path)
    assert videos(path) == {"g": (None, "good")}
    assert bad(path) == [
        (2, "bad_type", "x"),
        (3, "oversize_field", "l"),
        (4, "missing_key", None),
        (5, "duplicate_video", "g"),
    ]
    assert json.loads(read_catalogue(path).bad[0].payload) == {"video_id": "x", "title": "caf\ufffd"}
    titles = pa.array([None, ["a", "list"]])
    pq.write_table(pa.table({"video_id": pa.array(["a", "b"]).dictionary_encode(), "title": titles}), path)
    assert (videos(path), bad(path)) == ({"a": (None, None)}, [(2, "bad_type", "b")])


def test_numbers_are_identifiers_as_they_are_in_events(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "catalogue.jsonl", b'{"video_id": 7, "title": 2.50}', b'{"video_id": 1e3}', GOOD)
    assert videos(path) == {"7": (None, "2.50"), "1e3": (None, None), "g": ("g.mp4", "good")}
    assert bad(path) == []
    pq.write_table(pa.table({"video_id": [7, 8], "title": [1.5, None]}), tmp_path / "catalogue.parquet")
    assert videos(tmp_path / "catalogue.parquet") == {"7": (None, "1.5"), "8": (None, None)}


def test_the_rows_of_a_good_file_are_the_same_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(1)
    words = ["", "a", "两 字", 'a "quote", and comma', "new\nline", " padded ", "\u2028", "7"]
    rows = [
        {"video_id": f"v{n}é", "uri": random.choice(words), "title": random.choice([None, *words])} for n in range(300)
    ]
    random.shuffle(rows)
    with (tmp_path / "catalogue.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["title", "video_id", "uri"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    jsonl(tmp_path / "catalogue.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "catalogue.parquet")
    for name in ("catalogue.csv", "catalogue.jsonl", "catalogue.parquet"):
        quickly = read_catalogue(tmp_path / name)
        with monkeypatch.context() as patch:
            patch.setattr("mealrec.sources.catalogue._whole", lambda path, theirs: None)
            slowly = read_catalogue(tmp_path / name)
        assert quickly.videos.equals(slowly.videos) and quickly.bad == slowly.bad == [], name
        assert quickly.videos["video_id"].to_pylist() == sorted(row["video_id"] for row in rows)


def no_rows(path: Path) -> None:
    pq.write_table(pa.table({"video_id": pa.array([], pa.string())}), path)


def no_parquet(path: Path) -> None:
    path.write_bytes(b"PAR1 this is none PAR1")


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("catalogue.csv", lambda path: path.write_text("video_id,uri,title\n"), "names no video; it has no rows"),
        ("catalogue.csv", lambda path: path.write_text(""), "no column video_id; found nothing"),
        ("catalogue.csv", lambda path: path.write_text("video,uri\na,b\n"), "no column video_id; found video, uri"),
        ("catalogue.jsonl", lambda path: path.write_text("\n"), "names no video; it has no rows"),
        (
            "catalogue.jsonl",
            lambda path: path.write_text('{"video": "a"}\n'),
            "names no video; line 1: missing_key: absent or empty: video_id",
        ),
        ("catalogue.parquet", no_rows, "names no video; it has no rows"),
        ("catalogue.parquet", no_parquet, r"catalogue\.parquet: .*[Pp]arquet"),
    ],
)
def test_a_catalogue_that_names_no_video_is_an_error_with_its_name(
    tmp_path: Path, name: str, write: Callable[[Path], object], words: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(SourceError, match=words) as refused:
        read_catalogue(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)


def test_a_catalogue_with_other_names_is_read_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"clip": n, "headline": f"title {n}", "uri": None, "title": "of something else"} for n in "ba"]
    names = {"video_id": "clip", "title": "headline"}
    with (tmp_path / "catalogue.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    jsonl(tmp_path / "catalogue.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "catalogue.parquet")
    for name in ("catalogue.csv", "catalogue.jsonl", "catalogue.parquet"):
        for slowly in (False, True):
            with monkeypatch.context() as patch:
                if slowly:
                    patch.setattr("mealrec.sources.catalogue._whole", lambda path, theirs: None)
                found = read_catalogue(tmp_path / name, names)
            assert found.videos.to_pylist() == [{"video_id": n, "uri": None, "title": f"title {n}"} for n in "ab"], name
    with pytest.raises(SourceError, match="no column number; found clip, headline, uri, title"):
        read_catalogue(tmp_path / "catalogue.csv", {"video_id": "number"})


def test_the_names_of_a_catalogue_are_settings_of_ones_own_landing_folder(tmp_path: Path) -> None:
    jsonl(tmp_path / "catalogue.jsonl", {"clip": "a"})
    source = {"kind": "landing", "directory": str(tmp_path), "catalogue": {"video_id": "clip"}}
    config = load({"source": source})
    assert locate(config).catalogue()["video_id"].to_pylist() == ["a"]
    for wrong, words in (
        ({"kind": "simulated"}, "source.catalogue is of source.kind='landing'"),
        ({"catalogue": {"name": "clip"}}, "source.catalogue.name"),
        ({"catalogue": {"title": ""}}, "source.catalogue.title"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            load({"source": source | wrong})
