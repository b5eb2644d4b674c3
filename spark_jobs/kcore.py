"""The k-core of the viewer-video graph of positive interactions: a place's part of a round. All of a viewer's pairs lie in one
place, so viewers are counted there; of videos every place has a part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_jobs.watched import NEVER, codes


class Facts(NamedTuple):
    """All interactions; and of the pairs that stay: how many, of how many viewers, the times of the first and the last (ms)."""

    interactions: int
    pairs: int
    viewers: int
    first_ms: int
    last_ms: int

    def join(self, other: Facts) -> Facts:
        first, last = min(self.first_ms, other.first_ms), max(self.last_ms, other.last_ms)
        counts = (a + b for a, b in zip(self[:3], other[:3], strict=True))
        return Facts(*counts, first, last)


NOTHING = Facts(0, 0, 0, NEVER, -NEVER)


def staying(rows: pa.Table, user_core: int, kept: pa.Array | None) -> pa.Table:
    """WATCHED rows with a positive interaction whose video is among `kept` (None: every video), of viewers with at least
    user_core of these."""
    pairs = rows.filter(pc.is_valid(rows["timestamp_ms"]))
    if kept is not None:
        pairs = pairs.filter(pc.is_in(pairs["video_id"], value_set=kept))
    if user_core > 1 and len(pairs):
        user = codes(pairs["user_id"])
        pairs = pairs.filter(pa.array(np.bincount(user)[user] >= user_core))
    return pairs


def facts(rows: pa.Table, pairs: pa.Table) -> Facts:
    """Of WATCHED rows and those of them that stay."""
    seen = NOTHING._replace(interactions=pc.sum(rows["interactions"]).as_py() or 0)
    if not len(pairs):
        return seen
    ms = pc.min_max(pairs["timestamp_ms"]).as_py()
    return Facts(seen.interactions, len(pairs), len(pc.unique(pairs["user_id"])), ms["min"], ms["max"])


def videos(pairs: pa.Table) -> list[tuple[str, int]]:
    """Viewers of each video."""
    found = pc.value_counts(pairs["video_id"].combine_chunks())
    return list(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
