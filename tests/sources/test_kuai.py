"""KuaiRec and KuaiRand's logs, in the layout that their authors publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mealrec.config import RunConfig, SourceConfig
from mealrec.sources.kuai import kuairand_contents, kuairec_contents, read_kuairand, read_kuairec
from mealrec.sources.landing import Landing, SourceError
from mealrec.stages.ingest import ingest

REC = """user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio
0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.273397
0,9598,13665,10984,2020-07-05 00:13:41.297,20200705,1593879221.297,1.244082
1,3649,0,10867,,,,0.0
"""
CAPTIONS = """video_id,manual_cover_text,caption,topic_tag
3649,UNKNOWN,"a caption, with a comma",[]
9598,on the cover,UNKNOWN,[]
"""
RAND = """user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_comment,is_forward,long_view,play_time_ms,duration_ms
0,51,20220421,400,1650485062000,1,1,0,1,1,5000,6000
"""


def events(landing: Landing) -> list[dict[str, Any]]:
    lines = [line for path in landing.event_files() for line in path.read_text().splitlines()]
    return sorted((json.loads(line) for line in lines), key=lambda r: r["event_id"])


def test_kuairec_keeps_clocks_and_watch_times_and_takes_titles_from_the_captions(tmp_path: Path) -> None:
    data = tmp_path / "KuaiRec" / "data"
    data.mkdir(parents=True)
    (data / "big_matrix.csv").write_text(REC)
    (data / "kuairec_caption_category.csv").write_text(CAPTIONS)
    source = SourceConfig(kind="kuairec", directory=str(data.parent))
    summary = ingest(RunConfig(lake=str(tmp_path / "lake"), source=source))
    landing = Landing(Path(str(summary.details["landing"])))
    assert [(e["user_id"], e["video_id"], e["timestamp"], e["watch_ms"]) for e in events(landing)] == [
        ("u0", "v3649", 1_593_878_903_438, 13_838),
        ("u0", "v9598", 1_593_879_221_297, 13_665),
    ], "a view without a time can't be put into an order"
    assert landing.catalogue()["title"].to_pylist() == ["a caption, with a comma", "on the cover"]
    assert read_kuairec(data, landing)[1], "the second time there is nothing to do"


def test_kuairand_makes_an_event_of_each_signal(tmp_path: Path) -> None:
    (tmp_path / "log_standard_4_22_to_5_08_pure.csv").write_text(RAND)
    landing = Landing(tmp_path / "landing")
    found, _ = read_kuairand(tmp_path, landing)
    assert found["interactions"] == 3 and found["synthetic_time"] is False
    assert [(e["event_type"], e["watch_ms"]) for e in events(landing)] == [
        ("view", 5000),
        ("like", None),
        ("share", None),
    ]


def test_the_small_matrix_is_read_where_it_alone_is_there(tmp_path: Path) -> None:
    (tmp_path / "small_matrix.csv").write_text(REC)
    assert len(list(kuairec_contents(tmp_path).rows)) == 2
    (tmp_path / "big_matrix.csv").write_text(REC + "2,7,1,2,,,1593878904.0,0.5\n")
    found = kuairec_contents(tmp_path)
    assert [p.name for p in found.inputs] == ["big_matrix.csv"] and len(list(found.rows)) == 3


def test_all_logs_of_kuairand_are_read_and_a_viewer_goes_on_in_the_next(tmp_path: Path) -> None:
    later = RAND.replace("1650485062000", "1650585062000").replace(",51,", ",52,")
    (tmp_path / "log_standard_4_22_to_5_08_pure.csv").write_text(later)
    (tmp_path / "log_random_4_22_to_5_08_pure.csv").write_text(RAND)
    landing = Landing(tmp_path / "landing")
    assert read_kuairand(tmp_path, landing)[0]["interactions"] == 6
    assert [e["event_id"] for e in events(landing)] == [f"u0-{n}" for n in range(6)]
    assert {e["video_id"] for e in events(landing)} == {"v51", "v52"}


def test_what_is_wrong_is_named_with_file_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file matches log_standard"):
        kuairand_contents(tmp_path)
    (tmp_path / "log_random.csv").write_text(RAND.replace("time_ms", "when", 1))
    with pytest.raises(SourceError, match=r"log_random\.csv:1: no column time_ms; found user_id"):
        list(kuairand_contents(tmp_path).rows)
    (tmp_path / "log_random.csv").write_text(RAND.replace(",51,", ",x,"))
    with pytest.raises(SourceError, match=r"log_random\.csv:2: expected an integer, found 'x'"):
        list(kuairand_contents(tmp_path).rows)
