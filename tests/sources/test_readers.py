"""Readers of public layouts and of the user's own landing folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mealrec.config import ConfigError, FeaturesConfig, RunConfig, SourceConfig, override
from mealrec.features.probe import VideoRejected, probe
from mealrec.ingest_cli import ingest as app
from mealrec.sources.folder import catalogue_of_folder
from mealrec.sources.landing import Landing, SourceError
from mealrec.sources.microlens import OFFICIAL, read_microlens
from mealrec.sources.ninerec import read_ninerec
from mealrec.sources.recbole import contents, read_recbole
from mealrec.stages.ingest import ingest


def ninerec(folder: Path, sequences: str = "0 0 1 2\n1 2 0\n", items: str = "0,甲,First\n1,乙,\n2,,\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "sequential_data.txt").write_text(sequences)
    (folder / "Tiny_item.csv").write_text(items)
    return folder


def events(landing: Landing) -> list[dict[str, object]]:
    return [json.loads(line) for file in landing.event_files() for line in file.read_text().splitlines()]


def test_ninerec_keeps_the_order_and_marks_made_up_times(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "out")
    source, there = read_ninerec(ninerec(tmp_path / "in"), landing)
    assert (source["interactions"], source["videos"], source["synthetic_time"], there) == (5, 3, True, False)
    rows = sorted(events(landing), key=lambda r: (r["user_id"], r["timestamp"]))
    assert [(r["user_id"], r["video_id"]) for r in rows] == [
        ("u0", "v0"),
        ("u0", "v1"),
        ("u0", "v2"),
        ("u1", "v2"),
        ("u1", "v0"),
    ]
    assert landing.catalogue()["title"].to_pylist() == ["First", "乙", None]
    assert read_ninerec(tmp_path / "in", landing)[1]
    ninerec(tmp_path / "in", sequences="0 0 1\n")
    assert not read_ninerec(tmp_path / "in", landing)[1] and len(events(landing)) == 2


def test_a_file_that_is_not_the_one_its_sums_name_is_refused_before_anything_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, landing = ninerec(tmp_path / "in"), Landing(tmp_path / "out")
    made = subprocess.run(["sha256sum", "sequential_data.txt"], cwd=folder, capture_output=True, text=True, check=True)
    (folder / "SHA256SUMS").write_text(made.stdout)
    with caplog.at_level("INFO"):
        read_ninerec(folder, landing)
    assert "sequential_data.txt: SHA-256 is as" in caplog.text and "Tiny_item.csv is not named in" in caplog.text
    ninerec(folder, sequences="0 0 1 2\n1 2 1\n")
    found = hashlib.sha256(b"0 0 1 2\n1 2 1\n").hexdigest()
    with pytest.raises(SourceError) as refused:
        read_ninerec(folder, Landing(tmp_path / "other"))
    assert all(
        word in str(refused.value) for word in (str(folder / "sequential_data.txt"), found, made.stdout.split()[0])
    )
    assert not (tmp_path / "other").exists()
    with pytest.raises(SourceError, match="SHA-256 is"):
        read_ninerec(folder, landing)  # what was landed from the right file does not hide it
    (folder / "SHA256SUMS").write_text("\nsequential_data.txt\n")
    with pytest.raises(SourceError, match=r"SHA256SUMS:2: expected 64 hexadecimal digits"):
        read_ninerec(folder, landing)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sequences": "0 0 x\n"}, r"sequential_data\.txt:1: expected an integer, found 'x'"),
        ({"sequences": "0 1 2\n\n5\n"}, r"sequential_data\.txt:3: a viewer without items"),
        ({"sequences": ""}, "is empty"),
        ({"items": "0,a,b\n1,b\n"}, r"Tiny_item\.csv:2: expected 3 columns"),
        ({"items": "zero,a,b\n"}, r"Tiny_item\.csv:1: expected an integer"),
    ],
)
def test_a_broken_ninerec_file_is_named_with_its_line(tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read_ninerec(ninerec(tmp_path / "in", **change), Landing(tmp_path / "out"))
    assert not (tmp_path / "out" / "source.json").exists()


def test_a_missing_file_is_named_with_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "other.txt").write_text("x")
    with pytest.raises(SourceError, match=r"no file matches sequential_data\.txt; found other\.txt"):
        read_ninerec(tmp_path / "in", Landing(tmp_path / "out"))
    with pytest.raises(SourceError, match="not a folder"):
        read_ninerec(tmp_path / "nowhere", Landing(tmp_path / "out"))


def test_microlens_reads_sequences_and_prefers_timestamps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "MicroLens-50k_pairs.tsv").write_text("1\t3 2\n2\t2\n")
    (folder / "MicroLens-50k_titles.csv").write_text('item,title\n2,"two, with comma"\n9,nine\n')
    source, _ = read_microlens(folder, Landing(tmp_path / "a"))
    assert (source["interactions"], source["videos"], source["synthetic_time"]) == (3, 3, True)
    assert Landing(tmp_path / "a").catalogue()["title"].to_pylist() == ["two, with comma", None, "nine"]
    (folder / "MicroLens-50k_pairs.csv").write_text("user,item,timestamp\n1,3,1700000000000\n1,2,1700000005000\n")
    source, _ = read_microlens(folder, Landing(tmp_path / "b"))
    assert not source["synthetic_time"]
    assert {r["timestamp"] for r in events(Landing(tmp_path / "b"))} == {1700000000000, 1700000005000}
    sums = (
        OFFICIAL["MicroLens-50k_pairs.csv"],
        hashlib.sha256((folder / "MicroLens-50k_pairs.csv").read_bytes()).hexdigest(),
    )
    assert "not the official file's" in caplog.text and all(one in caplog.text for one in sums)
    assert all(len(one) == 64 for one in OFFICIAL.values())
    (folder / "MicroLens-50k_pairs.csv").write_text("user,video\n")
    with pytest.raises(SourceError, match="expected the header user,item,timestamp, found 'user,video'"):
        read_microlens(folder, Landing(tmp_path / "c"))


def test_a_viewer_on_two_lines_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "out")
    read_ninerec(ninerec(tmp_path / "in", sequences="0 2 1\n1 0\n0 0\n"), landing)
    rows = sorted(events(landing), key=lambda r: (r["user_id"], r["timestamp"]))
    assert [(r["event_id"], r["video_id"]) for r in rows] == [
        ("u0-0", "v2"),
        ("u0-1", "v1"),
        ("u0-2", "v0"),
        ("u1-0", "v0"),
    ]


INTER = "rating:float\titem_id:token\ttimestamp:float\tuser_id:token\n4\tm1\t1700000000\tann\n5\tm2\t1700000005\tbob\n"
ITEM = "genre:token_seq\titem_id:token\tmovie_title:token_seq\nfun\tm1\tThe First\nfun\tm3\t\n"


def recbole(folder: Path, inter: str = INTER, item: str | None = ITEM) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ml.inter").write_bytes(inter.encode("latin-1" if "\xe9" in inter else "utf-8"))
    if item is not None:
        (folder / "ml.item").write_text(item, encoding="utf-8")
    return folder


def test_recbole_finds_its_columns_by_name_and_turns_seconds_into_milliseconds(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "out")
    source, there = read_recbole(recbole(tmp_path / "in"), landing)
    assert (source["interactions"], source["videos"], source["synthetic_time"], there) == (2, 3, False, False)
    rows = {(r["user_id"], r["video_id"], r["timestamp"]) for r in events(landing)}
    assert rows == {("ann", "m1", 1_700_000_000_000), ("bob", "m2", 1_700_000_005_000)}
    assert landing.catalogue()["title"].to_pylist() == ["The First", None, None]
    assert read_recbole(tmp_path / "in", landing)[1]
    recbole(tmp_path / "in", INTER.replace("1700000000", "1700000000123").replace("\n", "\r\n"))
    assert not read_recbole(tmp_path / "in", landing)[1]
    assert {r["timestamp"] for r in events(landing)} == {1_700_000_000_123, 1_700_000_005_000}


def test_recbole_without_times_or_titles_keeps_the_file_order(tmp_path: Path) -> None:
    inter = "\ufeffuser_id:token\titem_id:token\nu\tb\nw\tc\n\nu\ta\n"
    folder = recbole(tmp_path / "in", inter, item=None)
    found = contents(folder)
    assert found.titles == {} and [(r.user, r.video, r.rank, r.timestamp_ms) for r in found.rows] == [
        ("u", "b", 0, None),
        ("w", "c", 0, None),
        ("u", "a", 1, None),
    ]
    assert read_recbole(folder, Landing(tmp_path / "out"))[0]["synthetic_time"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("note:token_seq\ttitle:token_seq", "second"),
        ("note:token_seq\tmovie_title:token_seq", "second"),
        ("year:float\tnote:token_seq", "second"),
        ("name:token_seq\tnote:token_seq", "first"),
        ("year:float\tkind:token", None),
    ],
)
def test_recbole_takes_the_title_like_column(tmp_path: Path, columns: str, expected: str | None) -> None:
    folder = recbole(tmp_path / "in", item=f"item_id:token\t{columns}\nm1\tfirst\tsecond\n")
    assert contents(folder).titles == {"m1": expected}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inter": "user_id\titem_id\nu\ta\n"}, r"ml\.inter:1: expected a header of name:type columns"),
        (
            {"inter": "user_id:token\tvenue:token\nu\ta\n"},
            r"ml\.inter:1: no column item_id:token; found user_id, venue",
        ),
        ({"inter": "item_id:token\titem_id:token\n"}, r"ml\.inter:1: a column is named twice"),
        ({"inter": INTER + "1\tm1\t5\n"}, r"ml\.inter:4: expected 4 columns, found 3"),
        (
            {"inter": INTER + "1\tm1\tnan\tann\n"},
            r"ml\.inter:4: expected a timestamp in seconds or milliseconds, found 'nan'",
        ),
        ({"inter": INTER + "\n1\tm1\t5\t\n"}, r"ml\.inter:5: empty user_id"),
        ({"inter": INTER + "1\tcaf\xe9\t5\tann\n"}, r"ml\.inter:4: expected UTF-8 text"),
        ({"inter": INTER.partition("\n")[0] + "\n"}, r"ml\.inter: no interactions"),
        ({"item": "title:token_seq\nx\n"}, r"ml\.item:1: no column item_id:token"),
        ({"item": "item_id:token\ttitle:token_seq\n\tx\n"}, r"ml\.item:2: empty item_id"),
    ],
)
def test_a_broken_recbole_file_is_named_with_its_line(tmp_path: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read_recbole(recbole(tmp_path / "in", **change), Landing(tmp_path / "out"))
    assert not (tmp_path / "out" / "source.json").exists()


def test_the_recbole_kind_is_a_source_that_needs_a_folder(tmp_path: Path) -> None:
    folder = recbole(tmp_path / "in")
    source = SourceConfig.model_validate({"kind": "recbole", "directory": str(folder)})
    summary = ingest(RunConfig(lake=str(tmp_path / "lake"), source=source))
    assert (summary.rows_out, summary.details["videos"], summary.details["synthetic_time"]) == (2, 3, False)
    with pytest.raises(ValueError, match=r"source\.kind='recbole' needs source\.directory"):
        SourceConfig.model_validate({"kind": "recbole"})


OLD = "user_id:token\titem_id:token\ttimestamp:float\n1\t2\t874724710\n3\t4\t893286638\n"


def test_a_set_that_is_older_than_what_is_believed_names_the_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = recbole(tmp_path / "in", OLD, item=None)
    config = RunConfig(
        lake=str(tmp_path / "lake"), source=SourceConfig.model_validate({"kind": "recbole", "directory": str(folder)})
    )
    for _ in range(2):  # also where it is landed
        with pytest.raises(ConfigError, match=r"of 1997-09-20 to 1998-04-22; set sessionize\.earliest=1997-09-20"):
            ingest(config)
    assert ingest(override(config, ["sessionize.earliest=1997-09-20"])).rows_out == 2
    assert "impossible_time" not in caplog.text
    ingest(override(config, ["sessionize.earliest=1998-01-01"]))
    assert (
        "before sessionize.earliest=1998-01-01 will be quarantined as impossible_time: the first is of" in caplog.text
    )
    recbole(tmp_path / "in", OLD.replace("874724710", "-1e30"), item=None)
    with pytest.raises(ConfigError, match="of -1000000000000000019884624838656 ms to 1998-04-22"):
        ingest(config)
    done = CliRunner().invoke(app, ["recbole", str(folder), "--lake", str(tmp_path / "other")])
    assert done.exit_code == 0 and (tmp_path / "other" / "_work" / "landing" / "source.json").is_file()


def test_a_byte_order_mark_at_the_beginning_of_a_set_is_no_part_of_it(tmp_path: Path) -> None:
    mark = "\ufeff"
    folder = ninerec(tmp_path / "nine", mark + "0 0 1\n", mark + "0,甲,First\n1,乙,\n")
    assert read_ninerec(folder, Landing(tmp_path / "a"))[0]["videos"] == 2
    folder = tmp_path / "micro"
    folder.mkdir()
    (folder / "x_pairs.tsv").write_text(mark + "1\t3 2\n")
    (folder / "x_titles.csv").write_text(mark + "item,title\n2,two\n")
    assert read_microlens(folder, Landing(tmp_path / "b"))[0]["interactions"] == 2
    (folder / "x_pairs.csv").write_text(mark + "user,item,timestamp\n1,3,1700000000000\n")
    assert read_microlens(folder, Landing(tmp_path / "c"))[0]["interactions"] == 1


@pytest.mark.parametrize(
    ("name", "kind", "folder", "expected"),
    [
        ("bili_food", "ninerec", "bili_food", (39_740, 1_579)),
        ("microlens50k", "microlens", "microlens50k", (359_708, 19_220)),
    ],
)
def test_real_sets_have_their_published_sizes(
    real_data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: str,
    folder: str,
    expected: tuple[int, int],
) -> None:
    source = SourceConfig.model_validate({"kind": kind, "directory": str(real_data / folder)})
    summary = ingest(RunConfig(lake=str(tmp_path), source=source))
    assert (summary.rows_out, summary.details["videos"]) == expected
    again = ingest(RunConfig(lake=str(tmp_path), source=source))
    assert again.skipped and again.rows_out == summary.rows_out
    assert "official" not in caplog.text


def test_a_catalogue_may_be_jsonl_csv_or_parquet_and_says_what_is_wrong(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    landing = Landing(tmp_path)
    with pytest.raises(SourceError, match=r"catalogue\.jsonl, catalogue\.csv, catalogue\.parquet"):
        landing.catalogue()
    (tmp_path / "catalogue.csv").write_text('video_id,title,uri\nb,"two\nlines",x.mp4\na,,\n')
    table = landing.catalogue()
    assert table.to_pylist() == [
        {"video_id": "a", "uri": None, "title": None},
        {"video_id": "b", "uri": "x.mp4", "title": "two\nlines"},
    ]
    (tmp_path / "catalogue.csv").unlink()
    pq.write_table(table.select(["video_id"]), tmp_path / "catalogue.parquet")
    assert landing.catalogue()["title"].null_count == 2
    (tmp_path / "catalogue.jsonl").write_text('{"video": "a"}\n')
    with pytest.raises(SourceError, match=r"catalogue\.jsonl names no video; line 1: missing_key"):
        landing.catalogue()


def test_a_catalogue_whose_ids_became_floats_has_the_ids_that_they_were(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "catalogue.parquet"
    pq.write_table(pa.table({"video_id": [12_345_678_901.0, 7.0], "title": [2.5, 3.0]}), path)
    assert Landing(tmp_path).catalogue().select(["video_id", "title"]).to_pylist() == [
        {"video_id": "12345678901", "title": "2.5"},
        {"video_id": "7", "title": "3"},
    ]
    pq.write_table(pa.table({"video_id": [7.0, float("nan")]}), path)
    found = Landing(tmp_path).sifted_catalogue()
    assert found.videos["video_id"].to_pylist() == ["7"] and [row.reason for row in found.bad] == ["missing_key"]


def test_a_folder_of_files_becomes_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "ünï clip.mp4").write_bytes(b"x")
    (tmp_path / "in" / ".hidden").write_bytes(b"x")
    landing = catalogue_of_folder(tmp_path / "in", tmp_path / "out")
    assert landing.catalogue()["video_id"].to_pylist() == ["deep/ünï clip.mp4"]
    assert landing.root == tmp_path / "in" and landing.catalogue_file().is_relative_to(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        catalogue_of_folder(tmp_path / "empty", tmp_path / "x")


def test_a_link_out_of_the_folder_is_not_even_looked_at(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (tmp_path / "in" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    landing = catalogue_of_folder(tmp_path / "in", tmp_path / "out")
    (uri,) = landing.catalogue()["uri"].to_pylist()
    assert landing.stat(uri) is None
    with pytest.raises(VideoRejected, match="uri_not_allowed"):
        probe(uri, landing.root, FeaturesConfig())


def test_a_bad_row_is_of_what_a_catalogue_is_known_by(tmp_path: Path) -> None:
    found = []
    for more in ("", "{}\n", "[]\n"):
        (tmp_path / "catalogue.jsonl").write_text('{"video_id": "a"}\n' + more)
        found.append(Landing(tmp_path).catalogue_fingerprint())
    assert len(set(found)) == 3


def test_a_name_that_is_not_utf_8_costs_its_file_alone(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"good.mp4", b"caf\xe9.mp4"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"x")
    found = catalogue_of_folder(folder, tmp_path / "out").sifted_catalogue()
    assert found.videos["video_id"].to_pylist() == ["good.mp4"]
    assert [(row.reason, "caf\ufffd.mp4" in row.payload) for row in found.bad] == [("unparseable", True)]


def test_a_lake_below_the_folder_is_not_of_the_folder(tmp_path: Path) -> None:
    for path in ("clip.mp4", "lake/features/part.parquet", "lake/_work/log.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    lake = tmp_path / "lake"
    landing = catalogue_of_folder(tmp_path, lake / "_work" / "folders", leave_out=[lake / "_work", lake])
    assert landing.catalogue()["video_id"].to_pylist() == ["clip.mp4"]
    with pytest.raises(SourceError, match="is the lake itself"):
        catalogue_of_folder(lake, lake / "_work" / "folders", leave_out=[lake])
    below = catalogue_of_folder(lake / "features", lake / "_work" / "folders", leave_out=[lake])
    assert below.catalogue()["video_id"].to_pylist() == ["part.parquet"]


def test_event_files_are_taken_up_to_a_day_by_the_day_in_their_names(tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.mkdir()
    for day in ("2026-01-06", "2026-01-05"):
        (events / f"events-{day}.jsonl").write_text("{}\n")
    assert Landing(tmp_path).event_days() == ["2026-01-05", "2026-01-06"]
    assert [p.name for p in Landing(tmp_path, "2026-01-05").event_files()] == ["events-2026-01-05.jsonl"]
    assert Landing(tmp_path, "2026-01-06").events_fingerprint() == Landing(tmp_path).events_fingerprint()
    with pytest.raises(SourceError, match="no event file up to 2026-01-04"):
        Landing(tmp_path, "2026-01-04").event_files()
    (events / "more.jsonl").write_text("{}\n")
    with pytest.raises(SourceError, match=r"more.jsonl: its name has no day"):
        Landing(tmp_path, "2026-01-05").event_files()
