"""The registered model, as code: MLflow runs this file to build it, so nothing is pickled.

Input: a DataFrame with `history` (a JSON list or a list of video ids, oldest first) and, optionally, `k`. Output: one row a
viewer with video_ids, scores, moments_ms and `unknown`, the number of ids in the history that the model has never seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

DEFAULT_K = 20
LARGEST_K = 1000


class MealRecModel(PythonModel):  # type: ignore[misc]
    """Loads the bundle (safetensors, JSON, .npy) and recommends."""

    def load_context(self, context: Any) -> None:
        from mealrec.serving.recommender import Recommender

        self.recommender = Recommender.load(Path(context.artifacts["bundle"]))
        self.index = {video: i for i, video in enumerate(self.recommender.video_ids, start=1)}

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Raises ValueError naming the column that is missing or wrong."""
        if "history" not in model_input.columns:
            raise ValueError(f"column 'history' is missing; got {', '.join(map(str, model_input.columns))}")
        histories = [_ids(row, value) for row, value in enumerate(model_input["history"])]
        k = int(model_input["k"].iloc[0]) if "k" in model_input.columns else DEFAULT_K
        if not 1 <= k <= LARGEST_K:
            raise ValueError(f"k must be in 1..{LARGEST_K}, got {k}")
        known = [[self.index[v] for v in history if v in self.index] for history in histories]
        found = self.recommender.recommend(known, k)
        ids = self.recommender.video_ids
        rows = []
        for at, history in enumerate(histories):
            chosen = [i for i in found.item_index[at].tolist() if i]
            rows.append(
                {
                    "video_ids": [ids[i - 1] for i in chosen],
                    "scores": found.scores[at, : len(chosen)].tolist(),
                    "moments_ms": found.moments_ms[at, : len(chosen)].tolist(),
                    "unknown": len(history) - len(known[at]),
                }
            )
        return pd.DataFrame(rows)


def _ids(row: int, value: Any) -> list[str]:
    try:
        ids = json.loads(value) if isinstance(value, str) else list(value)
    except (TypeError, json.JSONDecodeError):
        raise ValueError(f"row {row}: history must be a list of video ids or a JSON list, got {value!r}") from None
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise ValueError(f"row {row}: history must hold video ids (strings), got {value!r}")
    return ids


mlflow.models.set_model(MealRecModel())
