"""From interactions to sequences: what viewers watched, the k-core, the item index, and what a viewer's row holds."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mealrec.config import RunConfig, SparkConfig
from mealrec.lake import Lake, Provenance
from mealrec.schema import INTERACTIONS, ITEMS, SCHEMAS, SEQUENCES
from spark_jobs import kcore, shuffle, watched
from spark_jobs.items import items
from spark_jobs.sequences import SplitTimes, sequences, split_times
from tests.spark_jobs.test_nights import FIRST, World, event

Seen = tuple[str, str, int, str, str, bool]  # user_id, video_id, timestamp_ms, event_id, session_id, is_positive
PAIRS = [(user, video) for user in "abcü" for video in "vwx"]


def oracle_watched(rows: Sequence[Seen]) -> dict[tuple[str, str], tuple[Any, ...]]:
    """interactions, first and last time, first positive interaction of each (viewer, video)."""
    found: dict[tuple[str, str], tuple[Any, ...]] = {}
    for pair in {row[:2] for row in rows}:
        own = [row for row in rows if row[:2] == pair]
        times, liked = [row[2] for row in own], sorted(row[2:5] for row in own if row[5])
        found[pair] = (len(own), min(times), max(times), *(liked[0] if liked else (None, None, None)))
    return found


def table_of(rows: Sequence[Seen]) -> pa.Table:
    types = [SCHEMAS[INTERACTIONS].field(name).type for name in watched.READ]
    columns = [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(types)]
    return pa.table(columns, names=list(watched.READ))


def watched_of(rows: Sequence[Seen]) -> pa.Table:
    return watched.grouped(watched.single(table_of(rows)))


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    given=st.lists(
        st.tuples(st.sampled_from(PAIRS), st.integers(0, 3), st.integers(0, 9), st.booleans()), min_size=1, max_size=60
    ),
    places=st.integers(1, 4),
    together=st.integers(1, 2000),
)
def test_scattered_and_gathered_in_any_pieces_each_pair_is_one_row(
    given: list[Any], places: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many at the same moment: identifiers decide there, and are not in the order of the rows."""
    monkeypatch.setattr(watched, "GROUPED_BYTES", together)
    rows: list[Seen] = [
        (*pair, ms, f"e{order}-{n}", f"s{n % 3}", liked) for n, (pair, ms, order, liked) in enumerate(given)
    ]
    day = pa.array([0] * len(rows), pa.int32())
    batches = table_of(rows).append_column("day", day).combine_chunks().to_batches(max_chunksize=5)
    pieces: dict[int, list[shuffle.Piece]] = {}
    for batch in batches:
        for place, piece in shuffle.scattered([batch], places):
            pieces.setdefault(place, []).append(piece)
    found = [row for own in pieces.values() for row in watched.gathered(own).to_pylist()]
    assert len(found) == len({(row["user_id"], row["video_id"]) for row in found})
    assert {(row["user_id"], row["video_id"]): tuple(row.values())[2:] for row in found} == oracle_watched(rows)


def oracle_kcore(pairs: set[tuple[str, str]], user_core: int, item_core: int) -> set[tuple[str, str]]:
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(v for _, v in pairs)
        kept = {(u, v) for u, v in pairs if users[u] >= user_core and items[v] >= item_core}
        if kept == pairs:
            return kept
        pairs = kept


def job_of(spark: Any, folder: Path, rows: Sequence[Seen], files: int = 3, places: int = 3) -> Any:
    """A lake whose `interactions` are these rows, in so many files, and what the job knows of it."""
    lake, schema = Lake(str(folder / "lake")), SCHEMAS[INTERACTIONS]
    held = [
        dict.fromkeys(schema.names)
        | dict(zip(watched.READ, row, strict=True))
        | {"event_date": f"2026-01-{n % files + 5:02d}"}
        for n, row in enumerate(rows)
    ]
    lake.write(INTERACTIONS, pa.Table.from_pylist(held, schema=schema), Provenance("sessionize", "rows"))
    config = RunConfig(lake=lake.root, spark=SparkConfig(shuffle_partitions=places))
    return SimpleNamespace(spark=spark, lake=lake, config=config)


@pytest.mark.spark
def test_the_k_core_agrees_with_peeling_by_hand(spark: Any, tmp_path: Path) -> None:
    """In more places than buckets: a video's viewers are counted over all of them."""
    from spark_jobs.places import Places

    draw = random.Random(7)
    pairs = sorted({(f"u{draw.randint(1, 12)}", f"v{draw.randint(1, 12)}") for _ in range(62)})
    rows: list[Seen] = [(*pair, n, f"e{n}", "s", True) for n, pair in enumerate(pairs)]
    rows += [("u1", "v1", 0, "f", "s", False), ("u99", "v1", 3, "g", "s", False)]
    job = job_of(spark, tmp_path, rows, places=5)
    places = Places(job, job.lake.version(INTERACTIONS))
    index = pa.table({"video_id": [f"v{n}" for n in range(13)], "item_index": pa.array(range(13), pa.int64())})
    for cores, is_one_round in (((3, 4), False), ((6, 1), True), ((1, 6), True)):
        left = oracle_kcore(set(pairs), *cores)
        core = places.core(*cores)
        when = [n for n, pair in enumerate(pairs) if pair in left]
        assert left not in (set(), set(pairs)) and (core.rounds == 1) == is_one_round
        assert core.facts == (len(rows), len(left), len({u for u, _ in left}), when[0], when[-1])
        written = places.write(core, index, SplitTimes(0, 0))
        made = Provenance("sequences", str(cores))
        table = job.lake.read(SEQUENCES, job.lake.commit_files(SEQUENCES, written, made, mode="overwrite")).to_pylist()
        assert {(r["user_id"], f"v{n}") for r in table for n in r["item_index"]} == left
        assert [r["bucket"] for r in table] == [zlib.crc32(r["user_id"].encode()) % 4 for r in table]
    assert places.core(13, 1).facts.pairs == 0


@pytest.mark.spark
def test_what_places_know_of_videos_adds_up(spark: Any, tmp_path: Path) -> None:
    from spark_jobs.places import Places

    rows: list[Seen] = [(f"u{n % 5}", f"v{n % 3}", 100 - n, f"e{n}", "s", n % 2 == 0) for n in range(40)]
    job = job_of(spark, tmp_path, rows, places=9)  # so many that not all are added up by the driver
    found = {row.pop("video_id"): row for row in Places(job, job.lake.version(INTERACTIONS)).videos().to_pylist()}
    own = {video: [row for row in rows if row[1] == video] for video in ("v0", "v1", "v2")}
    assert {video: list(row.values()) for video, row in found.items()} == {
        video: [len(r), len({x[0] for x in r}), min(x[2] for x in r), max(x[2] for x in r)] for video, r in own.items()
    }


@pytest.mark.spark
def test_an_interaction_with_a_video_that_the_catalogue_does_not_name_is_an_error(spark: Any, tmp_path: Path) -> None:
    world = World(spark, tmp_path, user_core=1)
    lake = Lake(world.config.lake)
    world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST), event("b", "u1", FIRST, video_id="v2")])
    world.night()
    world.videos(["v1", "v3"])
    with pytest.raises(ValueError, match="1 of 2 interactions are of videos that the catalogue does not name: run"):
        world.sequences()
    assert not lake.exists(ITEMS) and not lake.exists(SEQUENCES)
    world.videos(["v1", "v2", "v3"])
    assert world.sequences()["details"]["items"] == 3
    world.videos(["v1", "v2", "v3", "v0"])
    world.sequences()
    index = {row["video_id"]: row["item_index"] for row in lake.read(ITEMS).to_pylist()}
    assert index == {"v1": 1, "v2": 2, "v3": 3, "v0": 4}


def of_videos(*rows: tuple[str, int, int, int, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(watched.OF_VIDEOS.names, row, strict=True)) for row in rows], schema=watched.OF_VIDEOS
    )


def test_the_item_index_is_dense_ordered_and_append_only() -> None:
    seen = of_videos(("c", 1, 1, 30, 30), ("a", 3, 2, 10, 25))
    first = items(pa.array(["d", "c", "b", "a"]), seen)
    table = {row["video_id"]: row for row in first.to_pylist()}
    assert {video: row["item_index"] for video, row in table.items()} == {"a": 1, "c": 2, "b": 3, "d": 4}
    assert [table["a"][name] for name in watched.OF_VIDEOS.names[1:]] == [3, 2, 10, 25]
    assert table["b"]["interactions"] == table["b"]["viewers"] == 0 and table["b"]["first_seen_ms"] is None
    known = first.select(["video_id", "item_index"]).sort_by("video_id")  # whatever order its files are read in
    seen = of_videos(("a", 3, 2, 10, 25), ("0", 1, 1, 5, 5))
    later = items(pa.array(["0", "d", "c", "a", "00"]), seen, known).to_pylist()  # b has left the catalogue
    assert [row["video_id"] for row in later] == ["a", "c", "b", "d", "0", "00"]
    assert [row["item_index"] for row in later] == [1, 2, 3, 4, 5, 6]
    assert [row["interactions"] for row in later] == [3, 0, 0, 0, 1, 0]


def test_new_videos_are_numbered_by_their_first_events_and_their_names() -> None:
    draw = random.Random(7)
    videos = [f"v{n}" for n in range(300)] + ["Ü", "z", "\U0001f3ac", "\ufffd"]
    first = {video: draw.randint(1, 40) for video in videos[20:]}  # many at the same moment, some never seen
    seen = of_videos(*((video, 1, 1, when, when) for video, when in draw.sample(sorted(first.items()), len(first))))
    table = items(pa.array(draw.sample(videos, len(videos))), seen)
    expected = sorted(videos, key=lambda video: (first.get(video, 1000), video.encode()))
    assert table["video_id"].to_pylist() == expected
    assert table["item_index"].to_pylist() == list(range(1, 305))


def test_sequences_are_chronological_first_occurrences_with_boundaries_and_splits() -> None:
    rows: list[Seen] = [
        ("u1", "a", 10, "e1", "s1", True),
        ("u1", "b", 10, "e0", "s1", True),
        ("u1", "a", 50, "e2", "s2", True),  # seen before
        ("u1", "c", 90, "e3", "s2", True),
        ("u1", "d", 95, "e4", "s2", False),
        ("u2", "d", 110, "e5", "s2", True),  # a session of its own, whatever its name
    ]
    index = pa.table({"video_id": ["d", "a", "b", "c"], "item_index": [4, 1, 2, 3]})
    seen = watched_of(rows[::-1])
    pairs = kcore.staying(seen, 1, None)
    facts = kcore.facts(seen, pairs)
    assert facts == (6, 4, 2, 10, 110)
    times = split_times(facts.first_ms, facts.last_ms, valid_share=0.2, test_share=0.1)
    assert times == SplitTimes(valid_ms=80, test_ms=100)
    one, two = sequences(pairs, index, times).to_pylist()
    assert (one["user_id"], one["item_index"], one["timestamp_ms"]) == ("u1", [2, 1, 3], [10, 10, 90])
    assert one["session_start"] == [True, False, True] and two["session_start"] == [True]
    assert (one["length"], one["temporal_valid_start"], one["temporal_test_start"]) == (3, 2, 3)
    assert (two["length"], two["temporal_valid_start"], two["temporal_test_start"]) == (1, 0, 0)
    assert len(sequences(pairs.slice(0, 0), index, times)) == 0
