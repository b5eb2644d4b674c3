"""Hyper-parameters that tuning chose, by dataset and row (chosen.json, written by `mealrec bench tune`)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

ANY = "*"  # the entry of a row for datasets that were not tuned


def chosen(dataset: str, row: str) -> dict[str, Any]:
    """Settings of a row for a dataset: its own, else the row's general ones, else none."""
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(files("mealrec.bench").joinpath("chosen.json").read_text())
    by_row = table.get(row, {})
    return by_row.get(dataset, by_row.get(ANY, {}))
