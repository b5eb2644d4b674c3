"""Every format gives the same records; what drifts, lies or is cut off costs its own rows and no others."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mealrec.config import ColumnRule
from mealrec.sources.landing import Landing, SourceError, day_in
from spark_jobs import jsonl_records, units
from spark_jobs import records as forms
from spark_jobs.records import Columns, blocks, records
from spark_jobs.units import lines_in, parts_of
from spark_jobs.values import integers
from tests.spark_jobs.test_transforms import event

ROWS = [event(n, user_id=f"u{n}", device=None if n % 3 else "web") for n in range(50)]
FIELDS = ("event_id", "user_id", "video_id", "event_type", "timestamp_ms", "watch_ms", "duration_ms", "device")


def read(path: Path, rules: dict[str, Any] | None = None, limit: int = 2**20) -> list[dict[str, Any]]:
    columns = Columns({name: ColumnRule.model_validate(rule) for name, rule in (rules or {}).items()})

    def count(parts: Any) -> list[int]:
        return [lines_in(p) for p in parts]

    parts = parts_of([str(path)], [0], count)
    return [row for part in parts for batch in records(part, columns, limit) for row in batch.to_pylist()]


def fields(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in FIELDS) for row in rows]


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]], header: list[str]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def test_all_formats_give_the_same_records_with_their_lines(tmp_path: Path) -> None:
    header = list(reversed(ROWS[0]))
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(as_jsonl(ROWS)))
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + as_csv(ROWS, header))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(as_csv(ROWS, header)))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=7)
    expected = fields(read(tmp_path / "a.jsonl"))
    assert expected[4] == ("e4", "u4", "v1", "view", ROWS[4]["timestamp"], 900, 1000, None)
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        assert fields(found) == expected, path.name
        first = 2 if ".csv" in path.name else 1  # a CSV's first line is its header
        assert [r["line"] for r in found] == list(range(first, first + len(ROWS))), path.name


def test_drift_costs_what_can_not_be_read_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        as_csv(ROWS, [*FIELDS[:4], "timestamp", "extra"])
    )  # three columns are gone, one is new
    found = read(tmp_path / "a.csv")
    assert {(r["watch_ms"], r["device"], r["wrong"], r["broken"]) for r in found} == {(None, None, None, None)}
    typed = [
        dict(row, timestamp=str(row["timestamp"]), watch_ms=float(row["watch_ms"]), user_id=n)
        for n, row in enumerate(ROWS)
    ]
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "b.parquet")
    found = read(tmp_path / "b.parquet")
    assert [(r["user_id"], r["timestamp_ms"], r["watch_ms"]) for r in found] == [
        (str(n), row["timestamp"], 900) for n, row in enumerate(ROWS)
    ]
    mixed = [*ROWS, event(60, watch_ms=True), event(61, video_id=["v1"]), event(62, timestamp="2026-02-30T00:00:00Z")]
    (tmp_path / "c.jsonl").write_bytes(as_jsonl(mixed))
    assert [r["wrong"] for r in read(tmp_path / "c.jsonl")] == [None] * 50 + ["watch_ms", "video_id", "timestamp"]


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (pa.binary(16), bytes(range(240, 256))),
        (pa.large_binary(), b"\xff\xfe"),
        (pa.binary(), b"u1"),
        (pa.string(), b"caf\xe9"),  # Latin-1 that its writer called text
        (pa.large_string(), b"caf\xe9"),
    ],
)
def test_bytes_where_text_should_be_cost_their_rows_and_not_the_file(
    tmp_path: Path, kind: pa.DataType, bad: bytes
) -> None:
    table = pa.Table.from_pylist(ROWS[:3])
    raw = pa.array([None, bad, None], kind if pa.types.is_fixed_size_binary(kind) else pa.large_binary())
    cast = raw if raw.type == kind else pc.cast(raw, kind, safe=False)
    pq.write_table(table.set_column(0, "event_id", cast), tmp_path / "a.parquet")
    pq.write_table(table.append_column("more", cast).set_column(4, "timestamp", cast), tmp_path / "b.parquet")
    assert [(r["wrong"], r["broken"]) for r in read(tmp_path / "a.parquet")] == [
        (None, None),
        ("event_id", None),
        (None, None),
    ]
    assert [r["wrong"] for r in read(tmp_path / "b.parquet")] == [None, "timestamp", None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_whole_numbers_that_became_floats_are_the_ids_that_they_were(tmp_path: Path, kind: pa.DataType) -> None:
    ids = pa.array([12_345_678_901, None, 0, -7, 2**53 - 1], kind)
    if kind == pa.float64():
        ids = pa.array([n if n is not None else float("nan") for n in ids.to_pylist()])  # as pandas writes a null
    table = pa.Table.from_pylist(ROWS[:5]).set_column(1, "user_id", ids)
    pq.write_table(table, tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert [(r["user_id"], r["wrong"]) for r in found] == [
        (text, None) for text in ("12345678901", None, "0", "-7", "9007199254740991")
    ]


WHOLE = [
    *(12_345.0, 0.0, -7.0, 999_999_999_999_999.0, 8_999_999_999_999_999.0, 0.5, 1.05),
    *(100.0, 10.25, 2.0**60, 1e22),
]


def test_whole_numbers_with_a_point_are_the_same_ids_in_every_format(tmp_path: Path) -> None:
    """As pandas writes a column of ids with a null in it. What JSON and Parquet say is text stays as it is."""
    rows = [event(n, user_id=number, device="1.0") for n, number in enumerate(WHOLE)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows))
    (tmp_path / "a.csv").write_bytes(as_csv(rows, list(rows[0])))
    expected = ["12345", "0", "-7", "999999999999999", "8999999999999999", "0.5", "1.05", "100", "10.25"]
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        assert [r["user_id"] for r in found][:9] == expected, path.name
        assert {r["device"] for r in found} == {"1" if path.name == "a.csv" else "1.0"}, path.name


def test_the_catalogue_names_a_video_as_events_do(tmp_path: Path) -> None:
    (tmp_path / "catalogue.csv").write_text("title,video_id\n7.0,12345.0\n,v1.0\n")
    assert Landing(tmp_path).catalogue().select(["video_id", "title"]).to_pylist() == [
        {"video_id": "12345", "title": "7.0"},
        {"video_id": "v1.0", "title": None},
    ]


def test_fractions_and_what_a_float_can_not_tell_apart_stay_as_they_are_written(tmp_path: Path) -> None:
    ids = pa.array([0.5, 2.0**60, float("inf")])
    pq.write_table(pa.Table.from_pylist(ROWS[:3]).set_column(1, "user_id", ids), tmp_path / "a.parquet")
    assert [r["user_id"] for r in read(tmp_path / "a.parquet")] == ["0.5", "1.152921504606847e+18", "inf"]


def test_a_uuid_is_the_text_it_is_written_as(tmp_path: Path) -> None:
    one = UUID("0190c1f2-7b1e-7c33-8000-00000000000f")
    table = pa.Table.from_pylist(ROWS[:2])
    pq.write_table(table.set_column(0, "event_id", pa.array([one.bytes, None], pa.uuid())), tmp_path / "a.parquet")
    found = read(tmp_path / "a.parquet")
    assert [(r["event_id"], r["wrong"], r["broken"]) for r in found] == [(str(one), None, None), (None, None, None)]


def test_the_hour_that_clocks_show_twice_damages_no_file(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS[:3])
    times = pa.array([1_792_888_200_000, 1_792_891_800_000, None], pa.timestamp("ms", "Europe/Berlin"))
    pq.write_table(table.set_column(4, "timestamp", times), tmp_path / "a.parquet")
    assert [r["timestamp_ms"] for r in read(tmp_path / "a.parquet")] == [1_792_888_200_000, 1_792_891_800_000, None]


def test_what_we_can_not_convert_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a fault of ours would leave out the rest of a healthy file and say that the file is at fault."""
    pq.write_table(pa.Table.from_pylist(ROWS[:3]), tmp_path / "a.parquet")
    monkeypatch.setattr(forms, "texts", lambda column: (column.cast(pa.int64()), None))
    with pytest.raises(pa.ArrowInvalid):
        read(tmp_path / "a.parquet")


def test_a_log_of_other_names_units_and_words_fits_by_config(tmp_path: Path) -> None:
    theirs = [{"uid": 7, "vid": "x", "act": "play", "ts": 1_767_600_000, "secs": 1.5}]
    rules = {
        "user_id": "uid",
        "video_id": {"name": "vid"},
        "event_type": {"name": "act", "values": {"play": "view"}},
        "timestamp": {"name": "ts", "unit": "s"},
        "watch_ms": {"name": "secs", "unit": "s"},
        "device": {"constant": "tv"},
    }
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(theirs))
    pq.write_table(pa.Table.from_pylist(theirs), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(as_csv(theirs, list(theirs[0])))
    for path in sorted(tmp_path.iterdir()):
        assert fields(read(path, rules)) == [(None, "7", "x", "view", 1_767_600_000_000, 1500, None, "tv")], path.name


NESTED = [
    {"event_id": "e1", "user": {"id": "u1", "more": {"device": "tv"}}, "timestamp": 1},
    {"event_id": "e2", "user": {"id": None, "more": None}, "timestamp": 2},
    {"event_id": "e3", "user": None, "timestamp": 3},
    {"event_id": "e4", "user": {"id": "u4", "more": {"device": None}}, "timestamp": 4},
]
PATHS = {"user_id": "user.id", "device": "user.more.device", "video_id": "user.nobody.id", "event_type": "timestamp.of"}


@pytest.mark.parametrize("quickly", [True, False])
def test_a_field_in_an_object_fits_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quickly: bool) -> None:
    monkeypatch.setattr(jsonl_records, "_lenient" if quickly else "_strict", lambda *_: None)
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([row | {"timestamp": 1} for row in NESTED]))
    pq.write_table(pa.Table.from_pylist(NESTED), tmp_path / "a.parquet")
    rules = dict(PATHS) if not quickly else {name: path for name, path in PATHS.items() if name != "event_type"}
    for path in sorted(tmp_path.iterdir()):
        found = read(path, rules)
        assert [(r["user_id"], r["device"]) for r in found] == [("u1", "tv"), (None, None), (None, None), ("u4", None)]
        assert {(r["video_id"], r["wrong"], r["broken"]) for r in found} == {(None, None, None)}, path.name


def test_a_name_with_a_point_is_a_name_before_it_is_a_path(tmp_path: Path) -> None:
    rows = [{"user.id": "u1", "user": {"id": "no"}}, {"user.id": "u2", "user": {"id": "no"}}]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows))
    (tmp_path / "a.csv").write_bytes(as_csv(rows, ["user.id"]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert [r["user_id"] for r in read(path, {"user_id": "user.id"})] == ["u1", "u2"], path.name
    both = {"user_id": "user.id", "device": "user"}
    for path in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        assert [(r["user_id"], r["wrong"]) for r in read(path, both)] == [("u1", "device"), ("u2", "device")]


def test_what_is_an_object_for_one_field_and_a_value_for_another_is_both(tmp_path: Path) -> None:
    rows = [{"user": {"id": "u1"}}, {"user": {"id": "u2"}}]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        for inner, outer in (("user_id", "device"), ("device", "user_id")):
            found = read(path, {inner: "user.id", outer: "user"})
            assert [(r[inner], r["wrong"]) for r in found] == [("u1", outer), ("u2", outer)], path.name


def test_a_log_without_zones_fits_by_config(tmp_path: Path) -> None:
    theirs = [{"event_id": "e", "when": "2026-01-05 10:00:00"}]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(theirs))
    (tmp_path / "a.csv").write_bytes(as_csv(theirs, list(theirs[0])))
    times = pa.array([datetime(2026, 1, 5, 10)], pa.timestamp("us"))
    pq.write_table(pa.table({"event_id": ["e"], "when": times}), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        for rule, expected in (({}, (None, "timestamp")), ({"zone": "Asia/Tokyo"}, (1_767_574_800_000, None))):
            (found,) = read(path, {"timestamp": {"name": "when"} | rule})
            assert (found["timestamp_ms"], found["wrong"]) == expected, path.name


def test_damage_is_told_with_its_line_and_the_rest_is_read(tmp_path: Path) -> None:
    cut = gzip.compress(as_jsonl(ROWS * 200))[:-400]
    (tmp_path / "a.jsonl.gz").write_bytes(cut)
    found = read(tmp_path / "a.jsonl.gz")
    assert len(found) > 5000 and found[0]["event_id"] == "e0" and "damaged from here on" in found[-1]["broken"]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    assert ["damaged" in r["broken"] for r in read(tmp_path / "b.parquet")] == [True]
    text = as_csv(ROWS[:3], list(ROWS[0])).replace(b"e1,", b"e1,more,") + b'"e9\nover two lines",u,v,view,1,2,3,web\n'
    (tmp_path / "c.csv").write_bytes(text)
    rows = sorted(read(tmp_path / "c.csv"), key=lambda r: r["line"])
    assert [(r["line"], r["event_id"]) for r in rows] == [(2, "e0"), (3, None), (4, "e2"), (5, "e9\nover two lines")]
    assert "expected 8 cells as in the header, found 9" in rows[1]["broken"] and rows[1]["payload"].startswith(
        "e1,more,"
    )


@pytest.mark.parametrize(
    "line", ['{"a": 1}{"a": 2}', '{"event_id": "x"', "[1]", '{"event_id": Inf}', '"x"', "{'a': 1}", "\x00"]
)
def test_one_bad_line_in_a_block_is_one_bad_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS[:5]) + line.encode() + b"\n\r\n" + as_jsonl(ROWS[5:9]))
    found = read(tmp_path / "a.jsonl")
    assert [(r["line"], r["payload"]) for r in found if r["broken"]] == [(6, line)]
    assert sorted(r["line"] for r in found if not r["broken"]) == [1, 2, 3, 4, 5, 8, 9, 10, 11]


def test_a_line_is_good_or_bad_whatever_its_neighbours_are(tmp_path: Path) -> None:
    """U+FFFD is a character like others, also in a block that is read line by line."""
    line = json.dumps(event(1, device="a\ufffdb"), ensure_ascii=False).encode() + b"\n"
    for name, more in (("alone", b""), ("beside", b'{"event_id": "\xff"}\n')):
        (tmp_path / f"{name}.jsonl").write_bytes(line + more)
        found = sorted(read(tmp_path / f"{name}.jsonl"), key=lambda r: r["line"])
        assert (found[0]["device"], found[0]["broken"]) == ("a\ufffdb", None), name
        assert [r["broken"] for r in found[1:]] == ["the line is not a JSON object in UTF-8"] * bool(more)


TOKENS = (
    '"u1"',
    '""',
    '"\\u00e9"',
    '"\\ud800"',
    '"\\u0000"',
    '"{x}"',
    '" [x"',
    '"NaN, "',
    '"a, Inf, b"',
    "null",
    "true",
    "7",
    "-0",
    "1.5",
)
TOKENS += (
    "12.0",
    "1e3",
    "9223372036854775808",
    "NaN",
    "-NaN",
    "Infinity",
    "-Infinity",
    "Inf",
    "{}",
    '{"a": NaN}',
    '{"id": "x"}',
    '{"id": null}',
    '{"id": {}}',
    "[1, Inf]",
)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from((*ROWS[0], "more")), st.sampled_from(TOKENS)), max_size=9),
        min_size=1,
        max_size=2,
    )
)
@settings(deadline=None, max_examples=200)
@example([[("more", '{"id": "x"}')]])
@example([[("more", '{"id": "x"}'), ("more", '{"id": "y"}')]])
@example([[("more", '{"id": {"id": "x"}}'), ("more.id", '"y"')]])
@example([[("more", "Inf")]])
@example([[("more", "[1, -NaN]")]])
def test_arrow_reads_of_json_what_is_read_line_by_line(some: list[list[tuple[str, str]]]) -> None:
    """Else a record would be good or bad by its neighbours, which send their block the one way or the other."""
    lines = ["{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}" for pairs in some]
    raw = [line.encode() for line in lines]
    for columns in (Columns({}), Columns({"device": ColumnRule(name="more.id")})):
        quickly = jsonl_records._strict(b"\n".join([*raw, b""]), raw, 1, columns, 2**20)
        if quickly is not None:
            assert quickly.to_pylist() == jsonl_records._lenient(raw, 1, columns, 2**20).to_pylist()


def test_a_number_that_is_none_is_a_null_and_costs_no_block_its_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pandas and Python's json write it; in a field that nobody asked for it costs nothing at all."""
    monkeypatch.setattr(forms, "BLOCK_BYTES", 1000)
    rows = [event(n, user_id=f"u{n}", score=float("nan"), title="Infinite, Info") for n in range(500)]
    rows[250] |= {"watch_ms": float("nan"), "duration_ms": float("inf"), "device": float("nan"), "title": float("-inf")}
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows))
    slowly, lenient = [], jsonl_records._lenient
    monkeypatch.setattr(
        jsonl_records, "_lenient", lambda lines, *rest: (slowly.append(len(lines)), lenient(lines, *rest))[1]
    )
    found = read(tmp_path / "a.jsonl")
    assert [r["user_id"] for r in found] == [f"u{n}" for n in range(500)] and not any(r["broken"] for r in found)
    assert (found[250]["watch_ms"], found[250]["device"], found[250]["wrong"]) == (None, None, "duration_ms")
    assert [r["wrong"] for r in found if r["wrong"]] == ["duration_ms"] and 0 < sum(slowly) < 20


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    """What replaces it would be one viewer for all of them."""
    users = ["\\ud800", "\\udfff", "a\\ud800b", "\\ud83d\\ude00"]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"event_id": "e", "user_id": "{user}"}}\n' for user in users))
    assert [r["wrong"] for r in read(tmp_path / "a.jsonl")] == ["user_id", "user_id", "user_id", None]


def test_text_may_begin_like_an_object_or_a_list(tmp_path: Path) -> None:
    rows = [event(1, event_id="{0190c1f2-7b1e}", device="[iOS]"), event(2, event_id={"a": 1}, device=["iOS"])]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows[:1]))
    (tmp_path / "b.jsonl").write_bytes(as_jsonl(rows))
    (tmp_path / "a.csv").write_bytes(as_csv(rows[:1], list(rows[0])))
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[1:]), tmp_path / "b.parquet")
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        whole = [(r["event_id"], r["device"]) for r in found if r["wrong"] is None]
        assert whole == ([] if path.name == "b.parquet" else [("{0190c1f2-7b1e}", "[iOS]")]), path.name
        assert [r["wrong"] for r in found if r["wrong"]] == ["event_id, device"] * (path.stem == "b"), path.name


def test_a_number_that_is_none_is_a_null_in_parquet_too(tmp_path: Path) -> None:
    """As pandas writes a null of a column of numbers."""
    values = pa.array([900.0, float("nan"), None, float("inf")])
    table = pa.Table.from_pylist(ROWS[:4]).set_column(5, "watch_ms", values)
    pq.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(
        as_csv(
            [row | {"watch_ms": w} for row, w in zip(ROWS, ("900.0", "NaN", "", "inf"), strict=False)], list(ROWS[0])
        )
    )
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        assert [r["watch_ms"] for r in found] == [900, None, None, None], path.name
        assert [r["wrong"] for r in found] == [None, None, None, "watch_ms"], path.name


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_the_least_whole_number_is_no_time_in_seconds(unit: str) -> None:
    values, wrong = integers(pa.array([-(2**63), 5, None]), unit)
    bad = unit == "s"
    assert values.to_pylist() == [None if bad else -(2**63), 5000 if bad else 5, None]
    assert (wrong.to_pylist() if wrong is not None else None) == ([True, False, False] if bad else None)


def test_a_byte_order_mark_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.jsonl").write_bytes(mark + as_jsonl(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(mark + as_jsonl(ROWS)))
    for text in (b"", b"\n"):
        (tmp_path / "nothing.jsonl").write_bytes(mark + text)
        assert read(tmp_path / "nothing.jsonl") == []
    monkeypatch.setattr(units, "SPLIT_BYTES", 1500)
    for name in ("a.jsonl", "a.jsonl.gz"):
        found = read(tmp_path / name)
        assert [(r["line"], r["event_id"], r["broken"]) for r in found] == [(n + 1, f"e{n}", None) for n in range(50)]
        assert json.loads(found[0]["payload"]) == ROWS[0]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS[:1]) + mark + as_jsonl(ROWS[1:2]))  # elsewhere it is no mark
    assert [r["line"] for r in read(tmp_path / "a.jsonl") if r["broken"]] == [2]


def test_a_long_line_is_cut_and_told_and_memory_is_not_its_victim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "BLOCK_BYTES", 1000)
    (tmp_path / "a.jsonl").write_bytes(as_jsonl([ROWS[0], event(1, pad="x" * 50_000), ROWS[2]]))
    found = read(tmp_path / "a.jsonl", limit=2000)
    assert [r["line"] for r in found] == [1, 2, 3]
    assert found[1]["broken"].startswith("oversize") and len(found[1]["payload"]) == 2000
    assert found[2]["event_id"] == "e2"
    (part,) = parts_of([str(tmp_path / "a.jsonl")], [0], lambda parts: [])
    assert max(len(block) for block, _ in blocks(part, 2000)) <= 2000 + forms.BLOCK_BYTES


def test_a_large_file_is_read_in_parts_with_the_lines_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "SPLIT_BYTES", 1500)
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(ROWS))
    assert len(parts_of([str(tmp_path / "a.jsonl")], [0], lambda parts: [lines_in(p) for p in parts])) > 3
    found = read(tmp_path / "a.jsonl")
    assert [(r["line"], r["event_id"]) for r in found] == [(n + 1, f"e{n}") for n in range(50)]


def test_event_files_lie_in_folders_too_and_work_in_progress_is_left_alone(tmp_path: Path) -> None:
    for name in ("b.csv", "dt=2026-01-05/x.parquet", ".hidden.jsonl", "_tmp/y.jsonl", "notes.txt", "a.jsonl.gz"):
        path = tmp_path / "events" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(Landing(tmp_path).named_files()) == ["a.jsonl.gz", "b.csv", "dt=2026-01-05/x.parquet"]
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: its name has no day"):
        Landing(tmp_path).event_days()
    assert [day_in(n) for n in ("dt=2026-01-05/x", "e-2026-02-30.csv", "12026-01-011")] == ["2026-01-05", None, None]
