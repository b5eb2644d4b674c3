"""A model bundle as a registered version that is champion, without the pipeline before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mealrec.registry import flavour, promotion
from mealrec.registry.tracking import Tracker


def crown(tracker: Tracker, bundle: Path, tags: Mapping[str, str]) -> None:
    run = tracker.start("train", "digest", "a run")
    version = promotion.register(tracker, flavour.log_model(tracker, run, bundle), run, dict(tags))
    tracker.client.set_registered_model_alias(tracker.config.model_name, promotion.CHAMPION, version.version)
