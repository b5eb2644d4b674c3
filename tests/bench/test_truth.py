"""The made-up catalogue is what it says, and TCD finds what matters in it (model.md 5.1)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mealrec.bench.truth import FRAMES, make
from mealrec.bench.truth_run import TRAINING, VARIANTS, run_truth, train_on_truth


def test_order_is_all_that_tells_two_videos_apart(tmp_path: Path) -> None:
    data, world = make(tmp_path, items=200, viewers=50, length=8, seed=1)
    assert world.salient[1:].sum(1).tolist() == [2] * 200 and world.duplicate[1:].sum(1).tolist() == [1] * 200
    assert not (world.salient & world.duplicate).any()
    places = [np.nonzero(row)[0] for row in world.salient[1:]]
    assert min(b - a for a, b in places) >= 2 and FRAMES == 8
    # the mean over frames says as much about the order as a coin does
    mean = np.asarray(data.content.arrays["visual"][1:], dtype=np.float64).mean(1)
    x = np.concatenate([mean, np.ones((200, 1))], 1)
    is_ab = world.is_ab[1:].astype(float)
    fit, test = np.arange(0, 100), np.arange(100, 200)
    weights = np.linalg.lstsq(x[fit], is_ab[fit], rcond=None)[0]
    assert abs(float(((x[test] @ weights > 0.5) == is_ab[test]).mean()) - 0.5) < 0.15
    counts = data.content.train_count().numpy()
    assert (counts[world.unwatched] == 0).all()
    repeated = np.nonzero(world.duplicate[1:])
    frames = np.asarray(data.content.arrays["visual"][1:], dtype=np.float64)
    original = frames[repeated[0], repeated[1] - 1]
    assert float(np.abs(frames[repeated] - original).mean()) < 0.05


@pytest.mark.slow
def test_tcd_finds_salient_frames_and_discounts_duplicates_and_sees_no_order_without_guidance(tmp_path: Path) -> None:
    """Order with guidance takes more viewers and epochs than a test has: it is measured by `mealrec bench truth`."""
    short = dataclasses.replace(TRAINING, warmup_epochs=5, joint_epochs=6)
    whole = train_on_truth(tmp_path / "a", {}, seed=0, viewers=500, training=short)
    assert whole.salience_auc > 0.9
    assert whole.duplicate_ratio < 0.7
    assert whole.topic_auc > 0.9
    blind = train_on_truth(tmp_path / "b", VARIANTS["no guidance (A2)"], seed=0, viewers=500, training=short)
    assert 0.42 < blind.order_auc < 0.58
    assert blind.topic_auc > 0.9


def test_a_table_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, said = tmp_path / "t.json", []
    held = {"salience_auc": 0.9, "duplicate_ratio": 0.5, "topic_auc": 1.0, "order_auc": 0.8}
    out.write_text(json.dumps({v: {"0": held} for v in VARIANTS}))
    monkeypatch.setattr("mealrec.bench.truth_run.train_on_truth", None)
    text = run_truth(out, seeds=[0], say=said.append)
    assert "| mealrec | 0.900 | 0.500 | 1.000 | 0.800 | 1 |" in text and said == []
