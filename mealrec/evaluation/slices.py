"""Parts of the viewers that a mean hides: by what is known of the target and of the viewer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mealrec.data.packed import Packed

HEAD_SHARE = 0.2  # the most watched fifth of the videos is the head
SHORT, LONG = 5, 10


def slices(
    data: Packed, viewer: npt.NDArray[np.int64], target: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[np.bool_]]:
    """name -> which of the viewers (test targets) belong to it, bool [V]; empty slices are left out.

    never seen / tail / head by the target's training interactions, history length by what was watched before it."""
    counts = data.content.train_count().numpy()
    head_from = np.sort(counts[1:])[::-1][max(round(data.items * HEAD_SHARE) - 1, 0)]
    seen = counts[target]
    length = (np.asarray(data.target_at("test")) - np.asarray(data.offsets[:-1]))[viewer]
    parts = {
        "target never seen in training": seen == 0,
        "tail target": (seen > 0) & (seen < head_from),
        "head target": (seen > 0) & (seen >= head_from),
        f"history up to {SHORT}": length <= SHORT,
        f"history {SHORT + 1}-{LONG}": (length > SHORT) & (length <= LONG),
        f"history over {LONG}": length > LONG,
    }
    return {name: chosen for name, chosen in parts.items() if chosen.any()}
