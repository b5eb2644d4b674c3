"""Reader of NineRec's layout (arXiv 2309.07705): sequential_data.txt and *_item.csv (id, Chinese title, English title)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from mealrec.sources.landing import Landing, SourceError
from mealrec.sources.public import Contents, find, integer, land, landed, sequence_rows

COLUMNS = 3


def read_ninerec(directory: Path, landing: Landing) -> tuple[dict[str, Any], bool]:
    """Write landing files; returns what source.json holds and whether it was there already.

    Titles are the English ones, the Chinese one where there is none. Raises SourceError naming file, line and what was
    expected."""
    inputs = files(directory)
    done = landed(landing, "ninerec", inputs)
    if done is not None:
        return done, True
    found = contents(directory)
    return land(landing, "ninerec", found.rows, found.titles, inputs), False


def contents(directory: Path) -> Contents:
    """What the folder holds. Raises SourceError like `read_ninerec`."""
    sequences, items = files(directory)
    return Contents(sequence_rows(sequences, separator=" "), _titles(items), [sequences, items])


def files(directory: Path) -> list[Path]:
    """sequential_data.txt and *_item.csv. Raises SourceError when one is missing."""
    return [p for p in (find(directory, "sequential_data.txt"), find(directory, "*_item.csv")) if p is not None]


def _titles(path: Path) -> dict[str, str | None]:
    titles: dict[str, str | None] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for row in reader:
            if len(row) != COLUMNS:
                raise SourceError(
                    f"{path}:{reader.line_num}: expected {COLUMNS} columns (id, Chinese title, English title), "
                    f"found {len(row)}"
                )
            item = f"v{integer(row[0], path, reader.line_num)}"
            titles[item] = row[2].strip() or row[1].strip() or None
    return titles
