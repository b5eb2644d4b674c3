"""What a run begins with, over a real MLflow store: decided once, by the champion of that moment."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mealrec.config import RunConfig, TrainConfig
from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.registry.tracking import Tracker
from mealrec.stages.warm_start import beginning
from mealrec.training import bundle, warm
from tests.stages import champion
from tests.training.killed_run import settings_of


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(lake=str(tmp_path / "lake"), train=TrainConfig(warm_start=True))


@pytest.fixture
def tracker(config: RunConfig, registry_work: Path) -> Tracker:
    return Tracker(config.registry, registry_work)


@pytest.fixture
def today(packed: Packed) -> Packed:
    """The data of the night after: newer versions of the tables."""
    return dataclasses.replace(packed, meta=packed.meta | {"versions": {"sequences": 1}})


def crown(tracker: Tracker, packed: Packed, folder: Path) -> None:
    torch.manual_seed(0)
    champion.crown(tracker, bundle.write(MealRec(settings_of(packed)), packed, folder), {})


def test_the_champion_of_that_moment_is_what_a_run_begins_with(
    config: RunConfig, tracker: Tracker, packed: Packed, today: Packed, tmp_path: Path
) -> None:
    settings = settings_of(packed)
    first = beginning(config, tracker, today, settings, tmp_path / "first")
    assert first == (None, {"afresh": "there is no champion yet"})
    crown(tracker, packed, tmp_path / "one")
    second = beginning(config, tracker, today, settings, tmp_path / "second")
    assert second == (str(tmp_path / "second"), {"champion": "1", "videos_kept": 30, "videos": 30})
    # runs that go on begin as they began, whoever is champion now
    assert beginning(config, tracker, today, settings, tmp_path / "first") == first
    crown(tracker, packed, tmp_path / "two")
    assert beginning(config, tracker, today, settings, tmp_path / "second") == second


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_as_much_of_the_champion_is_kept_as_is_asked_for(
    keep: float, config: RunConfig, tracker: Tracker, packed: Packed, today: Packed, tmp_path: Path
) -> None:
    asked = config.model_copy(update={"train": TrainConfig(warm_start=True, warm_keep=keep)})
    crown(tracker, packed, tmp_path / "one")
    folder, _ = beginning(asked, tracker, today, settings_of(packed), tmp_path / "run")
    assert folder is not None
    torch.manual_seed(0)  # as crown has it
    old = MealRec(settings_of(packed)).state_dict()[warm.IDS]
    torch.manual_seed(asked.seed)
    fresh = MealRec(settings_of(packed)).state_dict()[warm.IDS]
    begun = load_file(Path(folder) / warm.WEIGHTS)[warm.IDS]
    assert torch.allclose(begun, keep * old + (1 - keep) * fresh, atol=1e-6)


def test_a_champion_of_another_kind_is_named_as_the_reason_to_train_afresh(
    config: RunConfig, tracker: Tracker, packed: Packed, today: Packed, tmp_path: Path
) -> None:
    crown(tracker, packed, tmp_path / "one")
    other = dataclasses.replace(settings_of(packed), width=32)
    folder, origin = beginning(config, tracker, today, other, tmp_path / "run")
    assert folder is None
    assert origin == {"afresh": "champion version 1 is of another kind: other settings (width: 16 there, 32 here)"}


def test_on_the_champions_own_data_a_run_begins_afresh(
    config: RunConfig, tracker: Tracker, packed: Packed, tmp_path: Path
) -> None:
    crown(tracker, packed, tmp_path / "one")
    folder, origin = beginning(config, tracker, packed, settings_of(packed), tmp_path / "run")
    assert (folder, origin) == (None, {"afresh": "champion version 1 was trained on these very data"})


def test_a_champion_of_another_protocol_is_no_beginning(
    config: RunConfig, tracker: Tracker, packed: Packed, today: Packed, tmp_path: Path
) -> None:
    temporal = dataclasses.replace(packed, meta=packed.meta | {"protocol": "temporal"})
    crown(tracker, temporal, tmp_path / "one")
    folder, origin = beginning(config, tracker, today, settings_of(packed), tmp_path / "run")
    assert folder is None and "trained under another protocol (temporal there" in origin["afresh"]


def test_a_champion_of_an_older_format_does_not_stop_training(
    config: RunConfig, tracker: Tracker, packed: Packed, today: Packed, tmp_path: Path
) -> None:
    made = bundle.write(MealRec(settings_of(packed)), packed, tmp_path / "old")
    body = json.loads((made / "bundle.json").read_text())
    (made / "bundle.json").write_text(json.dumps(body | {"format": 1}))
    champion.crown(tracker, made, {})
    folder, origin = beginning(config, tracker, today, settings_of(packed), tmp_path / "run")
    assert folder is None and "bundle format 1" in origin["afresh"]


def test_it_is_off_unless_asked_for(
    config: RunConfig, tracker: Tracker, packed: Packed, today: Packed, tmp_path: Path
) -> None:
    off = config.model_copy(update={"train": TrainConfig()})
    crown(tracker, packed, tmp_path / "one")
    assert beginning(off, tracker, today, settings_of(packed), tmp_path / "run")[0] is None
    assert not (tmp_path / "run").exists()
