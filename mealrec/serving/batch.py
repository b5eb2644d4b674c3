"""Batch recommendations: stream viewers through a recommender."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from mealrec.lake import Lake
from mealrec.schema import RECOMMENDATIONS, SCHEMAS, SEQUENCES
from mealrec.serving.recommender import Recommender

VIEWERS_A_BATCH = 512


def recommend_all(lake: Lake, sequences: int, recommender: Recommender, k: int, version: str) -> Iterator[pa.Table]:
    """Rows of `recommendations` for every viewer of a pinned `sequences` version, a batch at a time.

    The whole history counts, the held-out items of training too. Memory: one batch x N scores."""
    dataset = lake.dataset(SEQUENCES, sequences)
    ids = recommender.video_ids
    for batch in dataset.to_batches(columns=["user_id", "item_index"], batch_size=VIEWERS_A_BATCH):
        if batch.num_rows == 0:
            continue
        # the index is append-only: a newer one may know videos that this model does not
        histories = [[i for i in row if i <= len(ids)] for row in batch.column("item_index").to_pylist()]
        found = recommender.recommend(histories, k)
        rows = []
        for at, user in enumerate(batch.column("user_id").to_pylist()):
            chosen = [i for i in found.item_index[at].tolist() if i]
            rows.append(
                {
                    "user_id": user,
                    "video_ids": [ids[i - 1] for i in chosen],
                    "scores": found.scores[at, : len(chosen)].tolist(),
                    "moments_ms": found.moments_ms[at, : len(chosen)].tolist(),
                    "model_version": version,
                }
            )
        yield pa.Table.from_pylist(rows, schema=SCHEMAS[RECOMMENDATIONS])
