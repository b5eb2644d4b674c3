"""From tables to arrays."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mealrec.config import RunConfig
from mealrec.data import pack as module
from mealrec.data.arrays import RECENT
from mealrec.data.pack import pack
from mealrec.data.packed import Packed
from mealrec.data.recency import DAY_MS, HALF_LIFE_DAYS
from mealrec.lake import Lake, Provenance
from mealrec.schema import FEATURES, ITEMS, SCHEMAS, SEQUENCES
from mealrec.stages.train import packed_dataset

MADE = Provenance("test", "d")


def half(*shape: int, start: int) -> bytes:
    return (np.arange(np.prod(shape)).reshape(shape) + start).astype(np.float16).tobytes()


def rows(table: str, data: list[dict[str, object]]) -> pa.Table:
    full = [{name: row.get(name) for name in SCHEMAS[table].names} for row in data]
    return pa.Table.from_pylist(full, schema=SCHEMAS[table])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    lake.write(ITEMS, rows(ITEMS, [{"video_id": f"v{i}", "item_index": i} for i in (3, 1, 2)]), MADE)
    sequences = [
        {
            "user_id": "b",
            "item_index": [3, 2, 1],
            "timestamp_ms": [0, 7 * DAY_MS, 14 * DAY_MS],
            "temporal_valid_start": 1,
            "temporal_test_start": 2,
            "bucket": 0,
        },
        {
            "user_id": "a",
            "item_index": [1, 2],
            "timestamp_ms": [0, 7 * DAY_MS],
            "temporal_valid_start": 2,
            "temporal_test_start": 2,
            "bucket": 1,
        },
    ]
    lake.write(SEQUENCES, rows(SEQUENCES, sequences), MADE)
    features = [
        {
            "video_id": "v2",
            "visual": half(2, 3, start=0),
            "visual_frames": 2,
            "visual_dim": 3,
            "audio": half(2, 2, start=50),
            "audio_slots": 2,
            "audio_dim": 2,
            "token_times_ms": [1000, 3000],
            "duration_ms": 4000,
            "bucket": 0,
        },
        {
            "video_id": "v1",
            "text": half(4, start=9),
            "text_tokens": half(3, 4, start=1),
            "text_token_count": 3,
            "text_dim": 4,
            "token_times_ms": [],
            "bucket": 1,
        },
        {"video_id": "stranger", "text": half(4, start=0), "text_dim": 4, "token_times_ms": [], "bucket": 1},
    ]
    lake.write(FEATURES, rows(FEATURES, features), MADE)
    return lake


def packed(lake: Lake, out: Path, tokens: str, frames: int) -> Packed:
    versions = {name: lake.at(name).version() for name in (ITEMS, SEQUENCES, FEATURES)}
    return Packed.open(pack(lake, versions, out, tokens=tokens, frames=frames, say=lambda line: None))  # type: ignore[arg-type]


def test_frames_and_sound_land_at_their_items(lake: Lake, tmp_path: Path) -> None:
    data = packed(lake, tmp_path / "out", "frames", 3)
    arrays = data.content.arrays
    assert data.item_ids() == ["v1", "v2", "v3"]
    assert arrays["visual"][2].tolist() == [[0, 1, 2], [3, 4, 5], [0, 0, 0]]
    assert arrays["audio"][2].tolist() == [[50, 51], [52, 53], [0, 0]]
    assert arrays["frame_mask"].tolist() == [[False] * 3, [False] * 3, [True, True, False], [False] * 3]
    assert arrays["available"][1:].tolist() == [[False, False, True], [True, True, False], [False] * 3]
    assert arrays["times"][2].tolist() == [1000, 3000, -1]
    assert arrays["position"][2].tolist() == [0.25, 0.75, 0.0]


def test_title_words_can_stand_in_for_frames(lake: Lake, tmp_path: Path) -> None:
    data = packed(lake, tmp_path / "out", "title", 2)
    arrays = data.content.arrays
    assert arrays["visual"][1].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert arrays["text"][1].tolist() == [9, 10, 11, 12]
    assert data.content.dims["audio_dim"] == 0
    assert arrays["times"].max() == -1


def test_an_interaction_a_half_life_before_the_newest_counts_half(lake: Lake, tmp_path: Path) -> None:
    data = packed(lake, tmp_path / "out", "frames", 3)
    assert HALF_LIFE_DAYS == 7
    assert data.content.recent_popularity().tolist() == [0, 1 + 1 / 4, 1 / 2 + 1 / 2, 1 / 4]
    (data.root / f"{RECENT}.npy").unlink()  # as for a dataset whose interactions have no times
    plain = Packed.open(data.root).content
    assert plain.recent_popularity().tolist() == plain.train_count().tolist()


def test_sequences_are_ordered_by_viewer(lake: Lake, tmp_path: Path) -> None:
    data = packed(lake, tmp_path / "out", "frames", 3)
    assert data.user_ids(range(2)) == ["a", "b"]
    assert data.sequence.tolist() == [1, 2, 3, 2, 1]
    assert data.history(1, "test").tolist() == [3, 2] and data.target(1, "test") == 1


def test_a_long_id_of_one_viewer_costs_its_own_bytes(lake: Lake, tmp_path: Path) -> None:
    ids = sorted([*(f"u{n:04}" for n in range(1000)), "ü" * 5000, "zero\0", "視聴者"])
    viewers = [{"user_id": name, "item_index": [1, 2, 3], "timestamp_ms": [1, 2, 3], "bucket": 0} for name in ids]
    lake.write(SEQUENCES, rows(SEQUENCES, viewers), MADE)
    data = packed(lake, tmp_path / "out", "frames", 3)
    assert data.user_ids(range(data.viewers)) == ids and data.user_ids(np.array([5, 2])) == [ids[5], ids[2]]
    assert sum(path.stat().st_size for path in data.root.glob("viewer*")) < 30_000


def test_a_dataset_comes_with_the_means_that_every_worker_maps(lake: Lake, tmp_path: Path) -> None:
    data = packed(lake, tmp_path / "out", "frames", 3)
    for name, width in (("visual", data.content.dims["visual_dim"]), ("audio", data.content.dims["audio_dim"])):
        array = np.load(data.root / "means" / f"{name}.npy", mmap_mode="r")
        assert array.shape == (data.items + 1, width) and array.dtype == np.float32


def test_a_dataset_of_another_form_is_not_opened(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {name: lake.at(name).version() for name in (ITEMS, SEQUENCES, FEATURES)}
    first, again = (packed_dataset(RunConfig(lake=lake.root), lake, versions) for _ in range(2))
    monkeypatch.setattr("mealrec.stages.train.FORM", module.FORM + 1)
    newer = packed_dataset(RunConfig(lake=lake.root), lake, versions)
    assert first.root == again.root != newer.root


def test_a_temporal_split_follows_the_times_of_the_table(lake: Lake, tmp_path: Path) -> None:
    versions = {name: lake.at(name).version() for name in (ITEMS, SEQUENCES, FEATURES)}
    made = pack(lake, versions, tmp_path / "t", tokens="frames", frames=3, say=lambda line: None, protocol="temporal")
    data = Packed.open(made)
    # viewer a has nothing after the validation time: it trains whole and has no target
    assert data.history(0, "train").tolist() == [1, 2] and data.target_at("test").tolist() == [-1, 4]
    assert data.history(1, "train").tolist() == [3] and data.target(1, "valid") == 2 and data.target(1, "test") == 1
    assert data.content.train_count().tolist() == [0, 1, 1, 1]
    with pytest.raises(ValueError, match="viewer 0 has no test target"):
        data.target(0, "test")


def test_a_killed_build_leaves_nothing_that_looks_whole(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("out.building-old", "out.building-young", "outer.building-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "meta.json").write_text("{}")
        os.utime(tmp_path / name, times=(time.time() - (1 if "young" in name else 2 * 86_400),) * 2)
    assert packed(lake, out, "frames", 3).items == 3
    assert {p.name for p in tmp_path.iterdir()} == {
        "lake",
        "out",
        "out.building-young",
        "outer.building-old",
    }  # the young one may be alive


def test_of_two_runs_at_once_the_first_gives_the_dataset_and_neither_spoils_it(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends while the first fills its arrays."""
    out, real, said = tmp_path / "out", module._features, []
    versions = {name: lake.at(name).version() for name in (ITEMS, SEQUENCES, FEATURES)}

    def run(name: str, frames: int) -> Path:
        return pack(
            lake, versions, out, tokens="frames", frames=frames, say=lambda line: said.append(f"{name}: {line}")
        )

    def features(*arguments: Any) -> int:
        monkeypatch.setattr(module, "_features", real)
        run("second", 3)
        assert Packed.open(out).content.arrays["visual"][2].tolist() == [[0, 1, 2], [3, 4, 5], [0, 0, 0]]
        return real(*arguments)

    monkeypatch.setattr(module, "_features", features)
    assert run("first", 2) == out
    assert said == [
        "second: packed 2 viewers, 5 interactions, 3 videos (2 with content)",
        "first: packed dataset out was made by another run meanwhile",
    ]
    assert Packed.open(out).content.arrays["visual"].shape[1] == 3
    assert {p.name for p in tmp_path.iterdir()} == {"lake", "out"}


def test_an_item_index_with_holes_is_refused(lake: Lake, tmp_path: Path) -> None:
    lake.write(ITEMS, rows(ITEMS, [{"video_id": "v1", "item_index": 1}, {"video_id": "v3", "item_index": 3}]), MADE)
    with pytest.raises(ValueError, match="not dense from 1 to 2"):
        packed(lake, tmp_path / "out", "frames", 3)
    assert not list(tmp_path.glob("out*"))


def test_a_run_that_ends_while_another_has_just_begun_gives_a_whole_dataset(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins while the first fills its arrays, and has no more than its ids when the first ends."""
    versions = {name: lake.at(name).version() for name in (ITEMS, SEQUENCES, FEATURES)}
    features, sequences, begun, ended = module._features, module._sequences, threading.Event(), threading.Event()

    def run() -> Path:
        return pack(lake, versions, tmp_path / "out", tokens="frames", frames=2, say=lambda line: None)

    def waits(*arguments: Any) -> tuple[int, int]:
        begun.set()
        assert ended.wait(60)
        return sequences(*arguments)

    def starts_another(*arguments: Any) -> int:
        monkeypatch.setattr(module, "_features", features)
        monkeypatch.setattr(module, "_sequences", waits)
        second.start()
        assert begun.wait(60)
        return features(*arguments)

    second = threading.Thread(target=run)
    monkeypatch.setattr(module, "_features", starts_another)
    try:
        out = run()
        assert len(Packed.open(out).sequence) == 5
    finally:
        ended.set()
        second.join()
    assert {p.name for p in tmp_path.iterdir()} == {"lake", "out"}
