"""Two small real models in a real MLflow store, for every test of serving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mealrec.config import RegistryConfig
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry import flavour, promotion
from mealrec.registry.tracking import Tracker
from mealrec.training import bundle
from tests.conftest import write_packed


@pytest.fixture(scope="session")
def served_data(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return write_packed(tmp_path_factory.mktemp("serving") / "packed")


@pytest.fixture(scope="session")
def bundles(served_data: Packed, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Bundles of two models with different weights."""
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = MealRec(ModelSettings(**served_data.content.dims, width=16, max_history=8))
        torch.nn.init.normal_(model.npd.residual.weight, std=0.1)  # it starts at zero: as if trained
        made.append(bundle.write(model, served_data, tmp_path_factory.mktemp("bundles") / f"bundle{seed}"))
    return made


class Registry:
    """A registered model of its own in a store; versions count from 1."""

    def __init__(self, work: Path, name: str) -> None:
        self.work = work
        self.tracker = Tracker(RegistryConfig(model_name=name), work)

    def register(self, folder: Path) -> str:
        run = self.tracker.start("train", folder.name, folder.name)
        uri = flavour.log_model(self.tracker, run, folder)
        return promotion.register(self.tracker, uri, run, {}).version

    def promote(self, version: str) -> None:
        """Move the alias, which is what serving sees of a promotion."""
        self.tracker.client.set_registered_model_alias(self.tracker.config.model_name, promotion.CHAMPION, version)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One MLflow store for all tests (making one takes seconds); each test has a model name of its own in it."""
    work = tmp_path_factory.mktemp("store")
    Registry(work, "first")
    return work


@pytest.fixture
def registry(store: Path, tmp_path: Path) -> Registry:
    return Registry(store, tmp_path.name)
