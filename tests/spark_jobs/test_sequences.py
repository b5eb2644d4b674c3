"""From interactions to sequences: the k-core, the item index, and what a viewer's row holds."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest


def oracle_kcore(pairs: set[tuple[str, str]], user_core: int, item_core: int) -> set[tuple[str, str]]:
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(v for _, v in pairs)
        kept = {(u, v) for u, v in pairs if users[u] >= user_core and items[v] >= item_core}
        if kept == pairs:
            return kept
        pairs = kept


@pytest.mark.spark
def test_the_k_core_agrees_with_peeling_by_hand(spark: Any) -> None:
    from spark_jobs.kcore import kcore

    draw = random.Random(7)
    pairs = {(f"u{draw.randint(1, 12)}", f"v{draw.randint(1, 12)}") for _ in range(62)}
    frame = spark.createDataFrame(sorted(pairs), "user_id string, video_id string")
    for cores, is_one_round in (((3, 4), False), ((6, 1), True), ((1, 6), True)):
        left, rounds = kcore(frame, user_core=cores[0], item_core=cores[1])
        assert {(r["user_id"], r["video_id"]) for r in left.collect()} == oracle_kcore(pairs, *cores)
        assert oracle_kcore(pairs, *cores) not in (set(), pairs) and (rounds == 1) == is_one_round


@pytest.mark.spark
def test_the_item_index_is_dense_ordered_and_append_only(spark: Any) -> None:
    from spark_jobs.items import items

    seen = spark.createDataFrame(
        [("u1", "c", 30), ("u2", "a", 10), ("u1", "a", 20)], "user_id string, video_id string, timestamp_ms bigint"
    )
    catalogue = spark.createDataFrame([("d",), ("c",), ("b",), ("a",)], "video_id string")
    first = items(catalogue, seen, None).cache()
    table = {r["video_id"]: r for r in first.collect()}
    assert {k: r["item_index"] for k, r in table.items()} == {"a": 1, "c": 2, "b": 3, "d": 4}
    assert (table["a"]["interactions"], table["a"]["viewers"], table["a"]["first_seen_ms"]) == (2, 2, 10)
    assert table["b"]["interactions"] == 0 and table["b"]["first_seen_ms"] is None
    more = spark.createDataFrame([("0",), ("d",), ("c",), ("a",)], "video_id string")
    later = {r["video_id"]: r["item_index"] for r in items(more, seen, first).collect()}
    assert later == {"a": 1, "c": 2, "b": 3, "d": 4, "0": 5}


@pytest.mark.spark
def test_many_ranges_are_numbered_as_one_sort_would(spark: Any) -> None:
    from spark_jobs.items import items

    draw = random.Random(7)
    videos = [f"v{n}" for n in range(300)]
    first = {video: draw.randint(1, 40) for video in videos[:250]}  # many at the same moment, fifty never seen
    seen = spark.createDataFrame(
        [("u", video, when) for video, when in first.items()], "user_id string, video_id string, timestamp_ms bigint"
    )
    catalogue = spark.createDataFrame([(video,) for video in draw.sample(videos, len(videos))], "video_id string")
    spark.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")  # or so few fit into one range
    try:
        index = {r["video_id"]: r["item_index"] for r in items(catalogue, seen, None).collect()}
    finally:
        spark.conf.unset("spark.sql.adaptive.coalescePartitions.enabled")
    expected = sorted(videos, key=lambda video: (first.get(video, 1000), video))
    assert sorted(index, key=lambda video: index[video]) == expected
    assert sorted(index.values()) == list(range(1, 301))


@pytest.mark.spark
def test_sequences_are_chronological_first_occurrences_with_boundaries_and_splits(spark: Any) -> None:
    from spark_jobs.sequences import SplitTimes, positive_pairs, sequences, split_times

    rows = [
        ("u1", "a", 10, "e1", "s1", True),
        ("u1", "b", 10, "e0", "s1", True),
        ("u1", "a", 50, "e2", "s2", True),  # seen before
        ("u1", "c", 90, "e3", "s2", True),
        ("u1", "d", 95, "e4", "s2", False),
        ("u2", "d", 110, "e5", "s3", True),
    ]
    draw = rows[::-1]
    events = spark.createDataFrame(
        draw,
        "user_id string, video_id string, timestamp_ms bigint, event_id string, session_id string, is_positive boolean",
    )
    index = spark.createDataFrame([("a", 1), ("b", 2), ("c", 3), ("d", 4)], "video_id string, item_index bigint")
    pairs = positive_pairs(events)
    times = split_times(pairs, valid_share=0.2, test_share=0.1)
    assert times == SplitTimes(valid_ms=80, test_ms=100)
    table = {r["user_id"]: r for r in sequences(pairs, index, times, buckets=4).collect()}
    one = table["u1"]
    assert (one["item_index"], one["timestamp_ms"]) == ([2, 1, 3], [10, 10, 90])
    assert one["session_start"] == [True, False, True]
    assert (one["length"], one["temporal_valid_start"], one["temporal_test_start"]) == (3, 2, 3)
    assert (table["u2"]["temporal_valid_start"], table["u2"]["temporal_test_start"]) == (0, 0)
