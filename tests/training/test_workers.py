"""How many workers share a run changes its speed and, but for rounding and noise, nothing else."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest

from mealrec.config import TrainConfig
from mealrec.data.packed import Packed
from mealrec.training.trainer import Job
from tests.training.killed_run import settings_of
from tests.training.without_ray import ends_of

WORKERS = (1, 2, 4)
SEEDS = (1, 2, 3)
SHORT: dict[str, Any] = {"warmup_epochs": 1, "joint_epochs": 1, "batch_size": 16, "lr": 5e-3, "matmul": "highest"}


def job(packed: Packed, workers: int, seed: int = 3, **train: Any) -> Job:
    config = TrainConfig(workers=workers, **SHORT | train)
    return Job("run", "", str(packed.root), settings_of(packed), config, seed=seed)


def test_evaluation_is_exact_whatever_the_number_of_workers(packed: Packed, tmp_path: Path) -> None:
    """Steps too small to move a weight: every worker count validates the same model."""
    still = {"lr": 1e-30, "joint_lr": 1e-30}
    ends = ends_of([job(packed, workers, **still) for workers in WORKERS], tmp_path / "still")
    found = [[(c["stage"], c["hr@10"], c["ndcg@10"]) for c in end.curves] for end in ends]
    assert found[0] == found[1] == found[2] and 0 < found[0][0][2] < 1


def test_without_dropout_workers_train_the_same_but_for_rounding(packed: Packed, tmp_path: Path) -> None:
    """The warm-up draws nothing else: with it off the losses of one worker are those of several."""
    settings = dataclasses.replace(settings_of(packed), dropout=0.0, id_dropout=0.0, condition_dropout=0.0)
    jobs = [dataclasses.replace(job(packed, n, warmup_epochs=4), settings=settings) for n in WORKERS]
    one, two, four = ([c["loss_next_item"] for c in end.curves[:4]] for end in ends_of(jobs, tmp_path / "plain"))
    assert one[-1] < 0.9 * one[0], "it learned"
    assert two == pytest.approx(one, rel=1e-5) and four == pytest.approx(one, rel=1e-5)


def test_1_2_and_4_workers_end_with_equal_metrics_within_noise(packed: Packed, tmp_path: Path) -> None:
    """Each worker draws dropout and noise of its own, so the runs differ as seeds do, and no more."""
    jobs = [job(packed, n, seed, warmup_epochs=12, joint_epochs=2) for n in WORKERS for seed in SEEDS]
    ends = [end.curves[-1] for end in ends_of(jobs, tmp_path / "seeds")]
    tcd, last = ([end[name] for end in ends] for name in ("loss_tcd", "ndcg@10"))
    assert max(tcd) < 1.3 * min(tcd), "a video counts once, however many workers hold it"
    groups = [last[at : at + len(SEEDS)] for at in range(0, len(last), len(SEEDS))]
    spread = statistics.fmean(statistics.variance(group) for group in groups) ** 0.5
    of_a_difference = spread * (2 / len(SEEDS)) ** 0.5
    one, *more = (statistics.fmean(group) for group in groups)
    assert one > 0.5, "it learned"
    assert all(abs(other - one) < 3 * of_a_difference for other in more), groups
    assert of_a_difference < 0.05, "else anything would pass"
