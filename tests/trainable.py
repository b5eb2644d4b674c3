"""The tables that training reads, made from nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from mealrec.lake import Lake, Provenance
from mealrec.schema import FEATURES, ITEMS, SCHEMAS, SEQUENCES


def tables(lake: Lake, viewers: int = 300, items: int = 30) -> None:
    """Viewers who go round in circles, videos of random content."""
    rng = np.random.default_rng(3)
    made = Provenance("test", "d")

    def write(table: str, rows: list[dict[str, object]]) -> None:
        full = [{name: row.get(name) for name in SCHEMAS[table].names} for row in rows]
        lake.write(table, pa.Table.from_pylist(full, schema=SCHEMAS[table]), made)

    write(ITEMS, [{"video_id": f"v{i}", "item_index": i} for i in range(1, items + 1)])
    sequences = [[int(s + k) % items + 1 for k in range(8)] for s in rng.integers(items, size=viewers)]
    ends = {"temporal_valid_start": 6, "temporal_test_start": 7, "bucket": 0}
    write(SEQUENCES, [{"user_id": f"u{n:03}", "item_index": s, **ends} for n, s in enumerate(sequences)])
    features = [
        {"video_id": f"v{i}", "visual_frames": 2, "visual_dim": 8, "token_times_ms": [0, 1000], "duration_ms": 2000}
        | {"visual": rng.normal(size=(2, 8)).astype(np.float16).tobytes(), "bucket": 0}
        for i in range(1, items + 1)
    ]
    write(FEATURES, features)
