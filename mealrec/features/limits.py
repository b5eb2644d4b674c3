"""What a video may have at most. A row, or kept frames, stand as long as no limit is lower than those that they passed: the
same catalogue and settings give the same rows, whatever was allowed before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from typing import Any

from mealrec.config import FeaturesConfig

KEY = "mealrec.limits"
NAMES = ("max_bytes", "max_pixels", "max_seconds", "max_frames", "max_streams")

Limits = Mapping[str, float]


def limits_of(config: FeaturesConfig) -> dict[str, float]:
    return {name: getattr(config, name) for name in NAMES}


def still_within(passed: Limits, now: Limits) -> bool:
    """Whether what was within the limits `passed` is within those of now without a look; one that it never passed may be
    broken."""
    return all(passed.get(name, inf) <= most for name, most in now.items())


def noted(limits: Limits) -> dict[str, str]:
    """For the metadata of a file of rows or frames."""
    return {KEY: json.dumps(dict(limits), sort_keys=True)}


def noted_in(metadata: Mapping[Any, Any] | None) -> dict[str, float]:
    """The limits that such a file's metadata, by text or bytes, say were passed; none where it is of before they were noted."""
    held = metadata or {}
    return dict(json.loads(held.get(KEY) or held.get(KEY.encode()) or "{}"))
