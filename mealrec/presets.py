"""Whole named configurations as functions. The demo is one of them: nothing else in the code knows of a demo."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mealrec.config import (
    ConfigError,
    FeaturesConfig,
    ModelConfig,
    RunConfig,
    SessionizeConfig,
    SourceConfig,
    TrainConfig,
)

DATA_VARIABLE = "MEALREC_DATA"


def demo() -> RunConfig:
    """A simulated platform with known truth: 120 rendered videos, 400 viewers, 14 days."""
    return RunConfig(
        lake="./var/demo",
        source=SourceConfig(kind="simulated"),
        sessionize=SessionizeConfig(earliest="2026-01-01", latest="2026-03-01"),
        # a short warm-up, and IDs missing often: the frames have to be read (benchmarks/LOG.md)
        model=ModelConfig(id_dropout=0.3),
        train=TrainConfig(
            batch_size=64, warmup_epochs=1, joint_epochs=25, joint_lr=1e-3, patience=8, candidate_dropout=0.3
        ),
    )


def bili_food() -> RunConfig:
    """NineRec's Bili_Food: real interactions and titles, no videos; title tokens stand in for frames."""
    return _titles_only("ninerec", "bili_food", max_history=20)


def bili_dance() -> RunConfig:
    """NineRec's Bili_Dance: real interactions and titles."""
    return _titles_only("ninerec", "bili_dance", max_history=20)


def microlens_50k() -> RunConfig:
    """MicroLens-50k: real interactions and titles."""
    return _titles_only("microlens", "microlens50k", max_history=10)


def production() -> RunConfig:
    """Your own logs and videos under ./landing (events/, catalogue.jsonl); a starting point to override."""
    return RunConfig(
        lake="./var/lake",
        source=SourceConfig(kind="landing", directory="./landing"),
        # a file of any time zone's day ends within it, and no clock that is years ahead gets in
        sessionize=SessionizeConfig(clock_skew_minutes=24 * 60),
    )


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "bili-food": bili_food,
    "bili-dance": bili_dance,
    "microlens-50k": microlens_50k,
    "production": production,
}


def preset(name: str) -> RunConfig:
    """The named configuration. Raises ConfigError naming the valid names, or the environment variable that is missing."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; valid presets: {', '.join(PRESETS)}")
    return PRESETS[name]()


def _titles_only(kind: str, folder: str, *, max_history: int) -> RunConfig:
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise ConfigError(f"this preset reads real data: set {DATA_VARIABLE} to the folder that holds {folder}/")
    return RunConfig(
        lake=f"./var/{folder}",
        source=SourceConfig.model_validate({"kind": kind, "directory": str(Path(root) / folder)}),
        sessionize=SessionizeConfig(user_core=1, item_core=1),
        features=FeaturesConfig(visual="none", audio="none"),
        model=ModelConfig(tokens="title", max_history=max_history, dropout=0.3, personal="pooling", denoiser_layers=1),
        train=TrainConfig(batch_size=64, warmup_epochs=60, joint_epochs=8, patience=5),
    )
