"""Whose committed row still stands."""

from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from mealrec.config import FeaturesConfig
from mealrec.features.held import HeldRow, figures, moved, rejected_as_before, unchanged
from mealrec.features.limits import NAMES, limits_of
from mealrec.features.probe import VideoRejected, probe
from mealrec.features.remote import NOT_ASKED
from mealrec.features.rows import Wanted, bucket_of, quarantine_row, source_of, title_hash

CONFIG = FeaturesConfig()
DATA = b"bytes of a video"
VIDEO = Wanted("v", "v.mp4", "rice", "16:1")
ROW = HeldRow(
    file=f"bucket={bucket_of('v', CONFIG.buckets)}/part-1.parquet",
    encoder_digest="enc",
    content_hash=f"{hashlib.sha256(DATA).hexdigest()}:{title_hash('rice')}",
    source_stat=source_of(VIDEO),
    absent=(),
    decoded_frames=8,
    limits=limits_of(CONFIG),
)
TITLE_ONLY = replace(ROW, content_hash=f":{title_hash('rice')}", source_stat="", decoded_frames=0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "v.mp4"
    path.write_bytes(DATA)
    return path


def stands(row: HeldRow, wanted: Wanted, file: Path, config: FeaturesConfig = CONFIG) -> bool:
    return unchanged({"v": row}, [wanted], {"v": file}, config, "enc") == {"v"}


def test_a_file_of_the_same_size_and_time_is_not_read(tmp_path: Path) -> None:
    assert stands(ROW, VIDEO, tmp_path / "reading this would fail")


def test_a_file_of_another_time_stands_when_its_bytes_are_the_same(file: Path) -> None:
    touched = replace(VIDEO, stat="16:2")
    assert stands(ROW, touched, file)
    file.write_bytes(b"other bytes there")
    assert not stands(ROW, touched, file)


def test_another_file_of_the_same_size_and_time_is_told_by_its_uri(file: Path) -> None:
    elsewhere = replace(VIDEO, uri="elsewhere/v.mp4")
    assert stands(ROW, elsewhere, file), "a file that was moved is the same one"
    file.write_bytes(b"b" * 16)
    assert not stands(ROW, elsewhere, file)
    assert unchanged({"v": ROW}, [elsewhere], {}, CONFIG, "enc") == set(), "an object is fetched again"


def test_an_object_that_can_not_be_asked_for_stands_as_it_was(file: Path) -> None:
    unknown = replace(VIDEO, stat=NOT_ASKED)
    assert unchanged({"v": ROW}, [unknown], {}, CONFIG, "enc") == {"v"}
    assert moved({"v": ROW}, [unknown], {"v"}) == {}
    assert source_of(unknown) == "", "what is decoded of one is fetched again when it can be told"
    for other in (replace(unknown, uri="w.mp4"), replace(unknown, title="noodles")):
        assert unchanged({"v": ROW}, [other], {}, CONFIG, "enc") == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_stands_while_no_limit_is_lower_than_those_that_it_passed(tmp_path: Path, name: str) -> None:
    limit = getattr(CONFIG, name)
    lower, higher = (CONFIG.model_copy(update={name: limit + more}) for more in (-1, 1))
    assert stands(ROW, VIDEO, tmp_path, higher) and not stands(ROW, VIDEO, tmp_path, lower)
    assert stands(replace(ROW, limits=limits_of(lower)), VIDEO, tmp_path)
    assert not stands(replace(ROW, limits={}), VIDEO, tmp_path), "nobody knows what it passed"
    assert stands(replace(TITLE_ONLY, limits={}), Wanted("v", None, "rice", ""), tmp_path), "there is nothing to pass"


def test_a_file_that_can_not_be_read_for_no_fault_of_its_own_stops_the_stage(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("mealrec.features.held.file_hash", failing)
    with pytest.raises(OSError, match="Too many open files"):
        stands(ROW, replace(VIDEO, stat="16:2"), file)


def test_where_a_moved_file_lies_now_is_to_be_kept(file: Path) -> None:
    for now in (replace(VIDEO, stat="16:2"), replace(VIDEO, uri="elsewhere/v.mp4")):
        assert moved({"v": ROW}, [now, Wanted("new", "w.mp4", None, "5:5")], {"v"}) == {"v": source_of(now)}
        assert moved({"v": TITLE_ONLY}, [now], {"v"}) == {}, "nobody reads a file for a title"
    assert moved({"v": ROW}, [VIDEO], {"v"}) == {}


def test_a_file_of_another_time_that_can_not_be_read_is_not_as_before(tmp_path: Path) -> None:
    assert not stands(ROW, replace(VIDEO, stat="16:2"), tmp_path / "gone.mp4")


@pytest.mark.parametrize(
    "wanted",
    [
        replace(VIDEO, title="noodles"),
        replace(VIDEO, title=None),
        replace(VIDEO, stat=""),  # the file is gone
        replace(VIDEO, uri=None, stat=""),  # the catalogue names no file any more
        replace(VIDEO, video_id="another"),
    ],
)
def test_another_title_or_another_file_is_done_again(wanted: Wanted, file: Path) -> None:
    assert not stands(ROW, wanted, file)


def test_other_encoders_and_other_buckets_are_done_again(file: Path) -> None:
    assert not stands(replace(ROW, encoder_digest="older"), VIDEO, file)
    assert not stands(replace(ROW, file="bucket=99/part-1.parquet"), VIDEO, file)


def test_a_title_without_a_file_stands_until_a_file_is_named(file: Path) -> None:
    assert stands(TITLE_ONLY, Wanted("v", None, "rice", ""), file)
    assert not stands(TITLE_ONLY, Wanted("v", "gone.mp4", "rice", ""), file)
    assert not stands(TITLE_ONLY, VIDEO, file)


def test_where_only_titles_are_encoded_files_do_not_matter(file: Path) -> None:
    titles = FeaturesConfig(visual="none", audio="none")
    assert stands(TITLE_ONLY, replace(VIDEO, stat="17:3"), file, titles)
    assert not stands(ROW, VIDEO, file, titles)


def test_figures_count_absences_of_videos_but_not_of_titles() -> None:
    rows = [replace(ROW, absent=("audio:audio_short", "text:no_title")), replace(TITLE_ONLY, absent=("audio:no_uri",))]
    assert figures(rows) == {"frames": 8, "absent": {"audio": 1, "text": 1}}


def is_rejected_again(then: Wanted, why: VideoRejected, now: Wanted, tried: str = "as now") -> bool:
    row = quarantine_row(then, why, "as now")
    return rejected_as_before([row], [now], tried) == {"v": row}


def test_a_rejected_video_is_not_tried_again_while_nothing_is_another() -> None:
    bad = VideoRejected("undecodable", "no frame")
    assert is_rejected_again(VIDEO, bad, VIDEO)
    assert not is_rejected_again(VIDEO, bad, VIDEO, "with other encoders")
    unknown = replace(VIDEO, stat=NOT_ASKED)
    assert not is_rejected_again(unknown, bad, unknown), "it may be another object"
    for change in ({"title": "noodles"}, {"uri": "w.mp4"}, {"stat": "16:2"}, {"stat": ""}, {"video_id": "another"}):
        assert not is_rejected_again(VIDEO, bad, replace(VIDEO, **change)), change


def test_a_rejected_video_is_tried_again_where_the_reason_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = VideoRejected("missing_file", "does not exist")
    assert is_rejected_again(replace(VIDEO, stat=""), gone, replace(VIDEO, stat="")), "it is missing still"
    assert not is_rejected_again(VIDEO, gone, VIDEO), "it was there when somebody looked"

    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "v.mp4").write_bytes(DATA)
    monkeypatch.setattr("mealrec.features.probe.open_regular", denied)
    with pytest.raises(VideoRejected, match="unreadable") as unreadable:
        probe("v.mp4", tmp_path, CONFIG)
    assert not is_rejected_again(VIDEO, unreadable.value, VIDEO)
