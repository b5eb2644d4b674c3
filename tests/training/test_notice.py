"""A run that is told that its time is short saves the step at which it stands, and goes on from it as if nothing had been."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from mealrec.config import RayConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.training import checkpoint, notice, trainer
from mealrec.training.loop import Notice, State, Trainer
from mealrec.training.notice import Stopped, stopped_by_sigterm
from mealrec.training.peers import Peers
from tests.training.killed_run import CONFIG, SEED, digest, fresh, settings_of

WITHOUT = dataclasses.replace(CONFIG, checkpoint_steps=0)  # none inside an epoch but those that are asked for


def told(word: Notice, *, after: int) -> list[Notice]:
    """The answers to one question a step."""
    return ["none"] * (after - 1) + [word] + ["none"] * 1000


def test_told_to_stop_after_any_step_it_ends_there_and_goes_on_bit_for_bit(packed: Packed, tmp_path: Path) -> None:
    whole, steps = fresh(packed), 0

    def count() -> Notice:
        nonlocal steps
        steps += 1
        return "none"

    Trainer(packed, WITHOUT, seed=SEED, notice=count).run(whole)
    assert steps >= 9
    for after in range(1, steps + 1):
        saved: list[int] = []

        def save(state: State, saved: list[int] = saved) -> None:
            saved.append(state.progress.step)
            checkpoint.save(state, tmp_path / "last")

        answers = iter(told("stop", after=after))
        Trainer(packed, WITHOUT, seed=SEED, notice=lambda answers=answers: next(answers)).run(  # type: ignore[misc]
            fresh(packed), on_step=save
        )
        assert len(saved) == 1 and len(list(answers)) == 1000, "it took no step more"
        state = checkpoint.load(tmp_path / "last", settings_of(packed), WITHOUT)
        Trainer(packed, WITHOUT, seed=SEED).run(state)
        assert digest(state) == digest(whole), f"told after step {after}"


def test_told_to_save_it_does_so_there_and_then_and_goes_on(packed: Packed, tmp_path: Path) -> None:
    whole, told_it, saved = fresh(packed), fresh(packed), list[int]()

    def save(state: State) -> None:
        saved.append(state.progress.step)
        checkpoint.save(state, tmp_path / "last")

    Trainer(packed, WITHOUT, seed=SEED).run(whole)
    answers = iter(told("save", after=2))
    Trainer(packed, WITHOUT, seed=SEED, notice=lambda: next(answers)).run(told_it, on_step=save)
    assert saved == [2]
    assert digest(told_it) == digest(whole)


def test_a_worker_hears_once_of_each_preemption_and_then_of_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "LOOK_EVERY_S", 0.0)
    known: list[object] = [None]
    said: list[str] = []
    ask = notice.notices(Peers(), tmp_path / "run.stop", lambda: known[-1], said.append)
    assert [ask(), ask()] == ["none", "none"]
    known.append("node 1 goes")
    assert [ask(), ask(), ask()] == ["save", "none", "none"]
    known.append("nodes 1 and 2 go")
    assert [ask(), ask()] == ["save", "none"]
    (tmp_path / "run.stop").touch()
    assert ask() == "stop" and len(said) == 3


def test_a_sigterm_tells_the_workers_and_what_comes_of_it_is_that_the_run_was_stopped(tmp_path: Path) -> None:
    file, before = tmp_path / "run.stop", signal.getsignal(signal.SIGTERM)
    file.touch()  # left by a driver that was killed
    with pytest.raises(Stopped), stopped_by_sigterm(file):
        assert not file.exists()
        signal.raise_signal(signal.SIGTERM)
        assert file.exists()
        raise RuntimeError("the workers ended without a checkpoint")
    assert not file.exists() and signal.getsignal(signal.SIGTERM) is before


def test_nobody_waits_for_the_workers_after_a_second_sigterm_or_the_grace_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped), stopped_by_sigterm(tmp_path / "run.stop"):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")
    monkeypatch.setattr(notice, "GRACE_S", 0.05)
    with pytest.raises(Stopped), stopped_by_sigterm(tmp_path / "run.stop"):
        signal.raise_signal(signal.SIGTERM)
        threading.Event().wait(60)
        pytest.fail("it went on")


def test_outside_the_main_thread_signals_stay_what_they_are(tmp_path: Path) -> None:
    found: list[object] = []

    def look() -> None:
        with stopped_by_sigterm(tmp_path / "run.stop"):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize(("own", "inside"), [(True, "0"), (False, None)])
def test_ray_looks_for_notices_where_somebody_else_runs_the_cluster(
    own: bool, inside: str | None, packed: Packed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the real thing: tests/training/test_preemption.py."""
    monkeypatch.delenv(trainer.WATCHER, raising=False)
    monkeypatch.setattr("mealrec.cluster.ray_cluster", lambda config: nullcontext(own))
    monkeypatch.setattr(trainer, "_fit", lambda job: Path(os.environ.get(trainer.WATCHER, "unset")))
    job = trainer.Job("run", str(tmp_path), str(packed.root), settings_of(packed), TrainConfig(), seed=1)
    assert trainer.train(job, RayConfig(), print) == Path(inside or "unset")
    assert trainer.WATCHER not in os.environ
