"""Reader of MicroLens' layouts (arXiv 2309.15379): *_pairs.tsv (sequences) or *_pairs.csv (timestamps), *_titles.csv."""

from __future__ import annotations

import csv
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mealrec.sources.checksums import sha256
from mealrec.sources.landing import Landing, SourceError
from mealrec.sources.public import Contents, Interaction, find, integer, land, landed, sequence_rows

log = logging.getLogger("mealrec.ingest")

# SHA-256 of MicroLens-50k's official files
OFFICIAL = {
    "MicroLens-50k_pairs.csv": "7ff8b91bcc84f5434ac2c5be7d0b7d7730f5e84f79f9648b5ae67a7641f97bbd",
    "MicroLens-50k_titles.csv": "244aad5380cbbe0fb43458cfcda5ebe820f534384602f80a64dbbcd07dd30e49",
}
PAIRS_HEADER = ["user", "item", "timestamp"]
TITLES_HEADER = ["item", "title"]


def read_microlens(directory: Path, landing: Landing) -> tuple[dict[str, Any], bool]:
    """Write landing files; returns what source.json holds and whether it was there already.

    Prefers the timestamped pairs; the sequence file has an order only. Raises SourceError naming file, line and what was
    expected."""
    inputs = files(directory)
    done = landed(landing, "microlens", inputs)
    if done is not None:
        return done, True
    found = contents(directory)
    return land(landing, "microlens", found.rows, found.titles, inputs), False


def contents(directory: Path) -> Contents:
    """What the folder holds. Raises SourceError like `read_microlens`."""
    pairs, titles = files(directory)
    _warn_unless_official(pairs)
    _warn_unless_official(titles)
    rows = _stamped_rows(pairs) if pairs.suffix == ".csv" else sequence_rows(pairs, separator="\t")
    return Contents(rows, _titles(titles), [pairs, titles])


def files(directory: Path) -> list[Path]:
    """The pairs, by timestamp rather than in sequences where both are there, and *_titles.csv. Raises SourceError when one is
    missing."""
    titles = find(directory, "*_titles.csv")
    pairs = find(directory, "*_pairs.csv", required=False) or find(directory, "*_pairs.tsv")
    return [p for p in (pairs, titles) if p is not None]


def _warn_unless_official(path: Path) -> None:
    official = OFFICIAL.get(path.name)
    if official is not None and (found := sha256(path)) != official:
        log.warning(
            "%s: SHA-256 %s is not the official file's, %s; reading it as it is (a SHA256SUMS beside it would refuse it)",
            path,
            found,
            official,
        )


def _stamped_rows(path: Path) -> Iterator[Interaction]:
    rank: Counter[int] = Counter()
    for number, row in _rows(path, PAIRS_HEADER):
        user, item, when = (integer(field, path, number) for field in row)
        yield Interaction(f"u{user}", f"v{item}", rank[user], when)
        rank[user] += 1


def _titles(path: Path) -> dict[str, str | None]:
    return {f"v{integer(row[0], path, number)}": row[1].strip() or None for number, row in _rows(path, TITLES_HEADER)}


def _rows(path: Path, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        first = next(reader, [])
        if [name.strip().lower() for name in first] != header:
            raise SourceError(f"{path}:1: expected the header {','.join(header)}, found {','.join(first)!r}")
        for row in reader:
            if len(row) != len(header):
                raise SourceError(f"{path}:{reader.line_num}: expected {len(header)} columns, found {len(row)}")
            yield reader.line_num, row
