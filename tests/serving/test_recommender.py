"""What a single request costs and leaves out: remembered viewers, the re-rank, the approximate index."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.config import IndexConfig
from mealrec.serving.answers import recommend
from mealrec.serving.encodings import Encodings, Held
from mealrec.serving.index import Exact, indexed
from mealrec.serving.messages import RecommendRequest
from mealrec.serving.models import Served
from mealrec.serving.recommender import BundleError, Recommender


@pytest.fixture
def recommender(bundles: list[Path]) -> Recommender:
    made = Recommender.load(bundles[0])
    with torch.no_grad():
        made.model.salience.query.weight.normal_(std=2.0, generator=torch.Generator().manual_seed(0))
    return made


def test_a_remembered_viewer_gets_what_a_stranger_with_the_same_history_gets(recommender: Recommender) -> None:
    for history in ([1, 2], [1, 2], [1, 2, 7], list(range(1, 12)), [3]):
        own = recommender.recommend([history], 10, viewer="u1")
        other = recommender.recommend([history, [1]], 10)
        assert own.item_index[0].tolist() == other.item_index[0].tolist()
        assert np.allclose(own.scores[0], other.scores[0], atol=1e-4)
        assert np.allclose(own.unusual[0], other.unusual[0], atol=1e-5)
    assert len(recommender.viewers) == 1
    without = recommender.recommend([[3]], 10, viewer="u1", npd=False)
    assert without.unusual[0] == 0 and not np.allclose(without.scores, recommender.recommend([[3]], 10).scores)


def test_viewers_who_were_not_asked_for_are_forgotten_first() -> None:
    held = Held(None, None)  # type: ignore[arg-type]
    kept = Encodings(2)
    for viewer in ("a", "b"):
        kept.put(viewer, held)
    assert kept.get("a") is held
    kept.put("c", held)
    assert kept.get("b") is None and kept.get("a") is held and kept.get("c") is held and len(kept) == 2


def test_a_viewer_without_history_gets_what_was_watched_of_late(bundles: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundles[0], folder)
    items = len(Recommender.load(folder).video_ids)
    np.save(folder / "recent.npy", np.arange(items + 1, dtype=np.float32))
    assert Recommender.load(folder).recommend([[]], 3).item_index.tolist() == [[items, items - 1, items - 2]]
    np.save(folder / "recent.npy", np.arange(items, dtype=np.float32))
    with pytest.raises(BundleError, match=r"different lengths.*'recent'"):
        Recommender.load(folder)


def test_the_rerank_orders_the_best_as_the_viewer_sees_them(recommender: Recommender) -> None:
    plain = recommender.recommend([[1, 2]], 5)
    again = recommender.recommend([[1, 2]], 5, rerank=12)
    best = recommender.recommend([[1, 2]], 12)
    assert set(again.item_index[0]) <= set(best.item_index[0].tolist())
    assert again.item_index[0].tolist() != plain.item_index[0].tolist()
    assert np.all(np.diff(again.scores[0]) <= 0)
    assert recommender.recommend([[1, 2]], 5, rerank=12, only=[4, 9, 1]).item_index[0, :3].tolist()[2] == 0


@pytest.mark.parametrize(
    ("waited", "rerank", "skipped"),
    [
        (0.9, 0, []),
        (1.1, 0, ["npd"]),
        (1.6, 0, ["npd"]),
        (1.6, 12, ["rerank", "npd"]),
        (2.1, 12, ["tcd", "rerank", "npd"]),
        (2.1, 0, ["tcd", "npd"]),
    ],
)
def test_the_longer_a_request_waited_the_more_is_left_out(
    recommender: Recommender, waited: float, rerank: int, skipped: list[str]
) -> None:
    asked = RecommendRequest(history=["v1", "v2"], k=5)
    found = recommend(Served("1", recommender, ""), asked, ["v1", "v2"], waited=waited, rerank=rerank)
    assert found.skipped == skipped
    expected = recommender.recommend(
        [[1, 2]],
        5,
        quick="tcd" in skipped,
        npd="npd" not in skipped,
        rerank=0 if "rerank" in skipped else rerank,
    )
    assert [video.video_id for video in found.videos] == [f"v{i}" for i in expected.item_index[0]]


def test_an_approximate_index_is_measured_and_refused_below_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    catalogue, states = (torch.randn(n, 8, generator=generator) for n in (3001, 40))
    hidden = torch.randint(1, 3001, (40, 6), generator=generator)
    exact = Exact(catalogue).search(states, 20, hidden)
    with caplog.at_level(logging.INFO, "mealrec.serve"):
        index = indexed(catalogue, states, IndexConfig(kind="hnsw", effort=400, min_recall=0.95))
        values, items = index.search(states, 20, hidden)
        assert type(index) is not Exact and "approximate index: " in caplog.text
        same = (items[:, :, None] == exact[1][:, None, :]).any(1)
        assert float(same.double().mean()) > 0.95 and torch.all(values[:, 1:] <= values[:, :-1])
        assert not (items[:, :, None] == hidden[:, None, :]).any()
        assert type(indexed(catalogue, states, IndexConfig(kind="hnsw", effort=1, min_recall=1.0))) is Exact
    assert "is refused, the search is exact" in caplog.text


def test_recommendations_come_from_the_index_that_is_set(recommender: Recommender) -> None:
    exact = recommender.recommend([[1, 2], [], [5]], 8)
    recommender.use(IndexConfig(kind="hnsw"))
    assert type(recommender.lookup) is not Exact
    found = recommender.recommend([[1, 2], [], [5]], 8)
    assert np.array_equal(found.item_index, exact.item_index) and np.allclose(found.scores, exact.scores, atol=1e-5)
