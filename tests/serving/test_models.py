"""The models that answer: loaded from a real registry, exchanged when an alias moves, refused when they are not fit."""

from __future__ import annotations

import errno
import json
import shutil
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mealrec.registry.source import RegistrySource
from mealrec.serving import recommender
from mealrec.serving.models import Models, NoModel, Unreachable
from tests.serving.conftest import Registry


@pytest.fixture
def models(registry: Registry, tmp_path: Path) -> Models:
    return Models(RegistrySource(registry.tracker), tmp_path / "scratch")


def test_without_a_champion_there_is_no_model_and_it_comes_once_there_is_one(
    registry: Registry, models: Models, bundles: list[Path]
) -> None:
    models.refresh()
    with pytest.raises(NoModel, match="alias 'champion'"):
        models.get()
    registry.promote(registry.register(bundles[0]))
    models.refresh()
    assert models.get().version == "1" and models.get("challenger") is models.get(), "one version is loaded once"
    with pytest.raises(NoModel, match="aliases followed: champion, challenger"):
        models.get("nobody")


def test_an_alias_moves_under_load_without_a_dropped_request(
    registry: Registry, models: Models, bundles: list[Path]
) -> None:
    first, second = registry.register(bundles[0]), registry.register(bundles[1])
    registry.promote(first)
    models.follow(0.05)
    answers: list[tuple[str, list[int]]] = []
    failures: list[BaseException] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.002):  # a spinning thread would keep the interpreter from those that load
            try:
                served = models.get()
                answers.append((served.version, served.recommender.recommend([[1, 2, 3]], 5).item_index[0].tolist()))
            except NoModel as error:
                if answers:  # before the first load there is none
                    failures.append(error)
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in (first, second, first, second):
            registry.promote(version)
            # a thread that was slow may answer with an earlier version last
            wait_for(lambda v=version: bool(answers) and models.get().version == v == answers[-1][0])  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        models.close()
    assert failures == []
    lists = {version: {tuple(ids) for v, ids in answers if v == version} for version in (first, second)}
    assert all(len(found) == 1 for found in lists.values()), "each version always gives its own answer"
    assert lists[first] != lists[second] and models.counts.swaps == 3


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04\x95cos\nsystem\n")


def spoil_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights = {name: torch.full_like(w, float("nan")) if w.is_floating_point() else w for name, w in weights.items()}
    save_file(weights, folder / "model.safetensors")


def spoil_ids(folder: Path) -> None:
    ids = json.loads((folder / "items.json").read_text())
    (folder / "items.json").write_text(json.dumps([*ids[:-1], ids[0]]))


def spoil_arrays(folder: Path) -> None:
    np.save(folder / "visual.npy", np.array([print], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_weights, "no whole model bundle"),
        (spoil_numbers, "not finite"),
        (spoil_ids, "video ids must be distinct"),
        (spoil_arrays, "Python objects in dtype"),
    ],
)
def test_a_poisoned_or_broken_version_is_refused_and_the_old_one_stays(
    registry: Registry, models: Models, bundles: list[Path], tmp_path: Path, spoil: object, reason: str
) -> None:
    registry.promote(registry.register(bundles[0]))
    models.refresh()
    broken = shutil.copytree(bundles[1], tmp_path / "broken")
    spoil(broken)  # type: ignore[operator]
    bad = registry.register(broken)
    registry.promote(bad)
    for _ in range(2):
        models.refresh()
    assert models.get().version == "1" and models.counts.swaps == 0
    assert list(models.counts.refused) == [bad] and reason in models.counts.refused[bad]
    assert models.get().recommender.recommend([[1]], 3).item_index.all()


class Folder:
    """A store of one version."""

    def __init__(self, bundle: Path) -> None:
        self.stored = bundle

    def version(self, alias: str) -> str | None:
        return "1"

    def bundle(self, version: str, scratch: Path) -> Path:
        return shutil.copytree(self.stored, scratch / version)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ModuleNotFoundError("No module named 'optional'"),
        OSError(errno.EMFILE, "Too many open files"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_version_that_a_passing_error_kept_out_is_tried_again_at_a_bounded_pace(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    now, tried = 0.0, list[float]()

    def fail(settings: object) -> None:
        tried.append(now)
        raise error

    models = Models(Folder(bundles[0]), tmp_path / "scratch", ["champion"], clock=lambda: now)
    with monkeypatch.context() as patch:
        patch.setattr(recommender, "MealRec", fail)
        for second in range(0, 12_000, 10):
            now = float(second)
            models.refresh()
    waits = [round(after - before) for before, after in pairwise(tried)]
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert models.counts.refused == {} and models.counts.failed == len(tried)
    with pytest.raises(NoModel):
        models.get()
    now += 3600
    models.refresh()
    assert models.get().version == "1"


def test_a_registry_out_of_reach_leaves_the_old_version_serving_and_is_asked_again(
    store: Path, bundles: list[Path], tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    shutil.copy(store / "mlflow.db", database)
    registry = Registry(tmp_path, "unreachable")
    models = Models(RegistrySource(registry.tracker), tmp_path / "scratch")
    registry.promote(registry.register(bundles[0]))
    models.refresh()
    content = database.read_bytes()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(Unreachable):
        models.source.version("champion")
    models.refresh()
    assert models.get().version == "1" and models.counts.unreachable == 2
    database.write_bytes(content)
    registry.promote(registry.register(bundles[1]))
    models.refresh()
    assert models.get().version == "2"


def test_folders_of_versions_that_serve_no_more_are_dropped_and_their_holders_go_on(
    registry: Registry, models: Models, bundles: list[Path]
) -> None:
    registry.promote(registry.register(bundles[0]))
    models.refresh()
    held = models.get()
    registry.promote(registry.register(bundles[1]))
    models.refresh()
    assert [p.name for p in models.scratch.iterdir()] == ["2"]
    assert held.recommender.recommend([[1, 2]], 3).item_index.all()


def wait_for(condition: object, seconds: float = 30.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
