"""What a training run begins with: the champion where `train.warm_start` asks for it and it fits, else fresh weights."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from mealrec.config import RunConfig
from mealrec.data.packed import Packed
from mealrec.data.split import Protocol
from mealrec.model.settings import ModelSettings
from mealrec.registry import flavour, promotion
from mealrec.registry.tracking import Tracker
from mealrec.serving.recommender import BundleError, Recommender
from mealrec.training import warm

log = logging.getLogger("mealrec.train")

Origin = dict[str, Any]


def beginning(
    config: RunConfig, tracker: Tracker, packed: Packed, settings: ModelSettings, folder: Path
) -> tuple[str | None, Origin]:
    """The folder of the weights to begin with (None: fresh ones), and where they come from: `champion`, `videos_kept` and
    `videos`, or `afresh` with the reason.

    Decided once for each run and kept in `folder`: which version is champion is no part of a run's identity, so a run that goes
    on after a promotion begins as it began."""
    if not config.train.warm_start:
        return None, {"afresh": "train.warm_start is off"}
    if not folder.is_dir():
        _decide(config, tracker, packed, settings, folder)
    origin = warm.origin_of(folder)
    if "afresh" in origin:
        log.info("training afresh: %s", origin["afresh"])
        return None, origin
    log.info("beginning as champion version %(champion)s: %(videos_kept)d of %(videos)d videos keep their ID", origin)
    return str(folder), origin


def _decide(config: RunConfig, tracker: Tracker, packed: Packed, settings: ModelSettings, folder: Path) -> None:
    champion = promotion.by_alias(tracker, promotion.CHAMPION)
    if champion is None:
        warm.write(None, folder, {"afresh": "there is no champion yet"})
        return
    uri = f"models:/{config.registry.model_name}/{champion.version}"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            bundle = flavour.bundle_of(tracker, uri, Path(scratch))
            known = Recommender.load(bundle)
            if _data_of(bundle) == packed.meta:  # who trains on them again compares settings, and wants nothing of it
                warm.write(
                    None, folder, {"afresh": f"champion version {champion.version} was trained on these very data"}
                )
                return
            earlier = warm.Earlier(known.model, known.video_ids, known.content, _protocol_of(bundle))
            weights, kept = warm.carried(earlier, packed, settings, config.seed, config.train.warm_keep)
        except (BundleError, warm.NotAlike) as error:
            warm.write(None, folder, {"afresh": f"champion version {champion.version} is of another kind: {error}"})
            return
    warm.write(weights, folder, {"champion": champion.version, "videos_kept": kept, "videos": packed.items})


def _protocol_of(bundle: Path) -> Protocol:
    """What held out the data that a bundle was trained on."""
    protocol: Protocol = _data_of(bundle).get("protocol", "leave-one-out")
    return protocol


def _data_of(bundle: Path) -> dict[str, Any]:
    """meta.json of the packed dataset that it was trained on."""
    data: dict[str, Any] = json.loads((bundle / "bundle.json").read_text()).get("data", {})
    return data
