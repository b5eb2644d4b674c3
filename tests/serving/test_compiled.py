"""A champion's pass as native code: made while it answers, the same answers afterwards, and none where it can't be made."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.model.window import Whole, WholeWindow
from mealrec.registry.source import RegistrySource
from mealrec.serving.compiled import CACHE_VARIABLE, NotCompiled, compare, compiled
from mealrec.serving.metrics import Metrics
from mealrec.serving.models import Models
from mealrec.serving.recommender import Recommender
from mealrec.training import bundle
from tests.serving.conftest import Registry
from tests.serving.test_models import wait_for


@pytest.fixture
def small(served_data: Packed, tmp_path: Path) -> Path:
    """A bundle of few layers: most of a minute is the compiler's, and it grows with them."""
    torch.manual_seed(2)
    shape = {"width": 16, "max_history": 8, "layers": 1, "denoiser_layers": 1}
    model = MealRec(ModelSettings(**served_data.content.dims, **shape))
    torch.nn.init.normal_(model.npd.residual.weight, std=0.1)  # it starts at zero: as if trained
    return bundle.write(model, served_data, tmp_path / "small")


@pytest.mark.night
def test_a_champion_answers_as_it_is_until_it_is_compiled_and_alike_afterwards(
    registry: Registry, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    registry.promote(registry.register(small))
    at_once = partial(compiled, niceness=0)
    models = Models(RegistrySource(registry.tracker), tmp_path / "scratch", compiler=at_once)
    models.refresh()
    recommender, plain = models.get().recommender, Recommender.load(small)
    assert recommender.whole is None and recommender.recommend([[1, 2]], 3).item_index.all()
    assert 'mealrec_model_compiled{alias="champion"} 0.0' in Metrics(models).text()
    wait_for(lambda: recommender.whole is not None, 400)
    assert 'mealrec_model_compiled{alias="champion"} 1.0' in Metrics(models).text()
    for history in ([1], [1, 2], [4, 4, 9], list(range(1, 12))):
        for npd in (True, False):
            own, other = (r.recommend([history], 10, npd=npd, viewer="u1") for r in (recommender, plain))
            assert np.allclose(own.scores, other.scores, atol=1e-4), (history, npd)
            assert np.allclose(own.unusual, other.unusual, atol=1e-4), (history, npd)
    own, other = (r.recommend([[2, 3]], 5, rerank=9) for r in (recommender, plain))
    assert np.allclose(own.scores, other.scores, atol=1e-4)
    left = [path for path in (tmp_path / "temporary").rglob("*") if path.is_file() or path.name.startswith("mealrec-")]
    assert not left, "what the compiler kept is gone, and it kept nothing elsewhere"


def test_a_compiler_that_fails_says_why_and_the_version_answers_as_it_is(
    registry: Registry, bundles: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry.promote(registry.register(bundles[0]))

    def on_a_broken_disk(recommender: Recommender) -> Whole:
        (recommender.content.root / "items.json").unlink()
        return compiled(recommender)

    models = Models(RegistrySource(registry.tracker), tmp_path / "scratch", compiler=on_a_broken_disk)
    with caplog.at_level(logging.WARNING, "mealrec.serve"):
        models.refresh()
        wait_for(lambda: "uncompiled" in caplog.text, 100)
    assert re.search("version 1 answers uncompiled: NotCompiled: BundleError: .*items.json", caplog.text)
    assert models.get().recommender.whole is None
    assert models.get().recommender.recommend([[1, 2]], 3).item_index.all()


def test_nothing_that_came_with_a_bundle_is_taken_for_compiled_code(
    bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(bundles[0], tmp_path / "bundle")
    asked: list[Path] = []

    def run(command: list[str]) -> None:
        asked.extend([Path(command[4]), Path(os.environ[CACHE_VARIABLE])])
        raise NotCompiled("as asked")

    monkeypatch.setattr("mealrec.serving.compiled._run", run)
    with pytest.raises(NotCompiled, match="as asked"):
        compiled(Recommender.load(bundle))
    assert len(asked) == 2 and not any(path.is_relative_to(bundle) or path.exists() for path in asked)


def test_native_code_that_differs_from_its_model_is_not_used(bundles: list[Path]) -> None:
    held = Recommender.load(bundles[0])
    window, tables = WholeWindow(held.model), held.tables()

    def off_by(share: float) -> Whole:
        def whole(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
            *parts, state, unusual = window(rows, *tables)
            return *parts, state * (1 + share * (len(rows) > 5)), unusual

        return whole

    compare(held, off_by(0.0))
    with pytest.raises(NotCompiled, match=r"a window of 8 videos gives a state that is 0.01 of its length apart"):
        compare(held, off_by(0.01))
    with pytest.raises(NotCompiled):
        compare(held, off_by(float("nan")))


def test_a_version_that_serves_no_more_is_not_compiled(registry: Registry, bundles: list[Path], tmp_path: Path) -> None:
    versions = [registry.register(bundle) for bundle in bundles]
    asked: list[Recommender] = []
    go_on = threading.Event()

    def slow(recommender: Recommender) -> Whole:
        asked.append(recommender)
        go_on.wait(30)
        raise NotCompiled("as asked")

    models = Models(RegistrySource(registry.tracker), tmp_path / "scratch", ["champion"], compiler=slow)
    held = []
    for version in (
        versions[0],
        versions[1],
        versions[0],
    ):  # the first is being compiled when the second comes and goes
        registry.promote(version)
        models.refresh()
        held.append(models.get().recommender)
    go_on.set()
    wait_for(lambda: not any(thread.name == "compiler" for thread in threading.enumerate()), 30)
    assert held[0] in asked and held[1] not in asked and held[2] in asked
