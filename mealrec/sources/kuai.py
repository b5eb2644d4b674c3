"""Readers of Kuaishou's logs, which have clocks and watch times: KuaiRec (arXiv 2202.10842), KuaiRand (arXiv 2208.08696).

KuaiRec: big_matrix.csv (or small_matrix.csv where that alone is there), and kuairec_caption_category.csv for titles.
KuaiRand: log_standard_*.csv and log_random_*.csv; it has no titles. A row is a view; a like, comment or share of it is one
event more.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mealrec.sources.landing import Landing, SourceError
from mealrec.sources.public import Contents, Interaction, find, integer, land, landed

SIGNALS = {"is_like": "like", "is_comment": "comment", "is_forward": "share"}
Row = tuple[int, dict[str, str]]


def read_kuairec(directory: Path, landing: Landing) -> tuple[dict[str, Any], bool]:
    """Write landing files; returns what source.json holds and whether it was there already. Raises SourceError naming file,
    line and what was expected."""
    return _read("kuairec", kuairec_contents(directory), landing)


def read_kuairand(directory: Path, landing: Landing) -> tuple[dict[str, Any], bool]:
    """As `read_kuairec`."""
    return _read("kuairand", kuairand_contents(directory), landing)


def kuairec_contents(directory: Path) -> Contents:
    """What the folder (or its data/) holds."""
    folder = _data(directory)
    big = find(folder, "big_matrix.csv", required=False) or find(folder, "big_matrix.csv", "small_matrix.csv")
    captions = find(folder, "kuairec_caption_category.csv", required=False)
    assert big is not None
    titles = _captions(captions) if captions is not None else {}
    return Contents(_kuairec_rows(big), titles, [p for p in (big, captions) if p is not None])


def kuairand_contents(directory: Path) -> Contents:
    """What the folder (or its data/) holds: all its logs, in the order of their names."""
    folder = _data(directory)
    logs = sorted(p for p in folder.glob("log_*.csv") if p.is_file())
    if not logs:
        find(folder, "log_standard_*.csv", "log_random_*.csv")  # says what is there instead
    return Contents(_kuairand_rows(logs), {}, logs)


def _read(kind: str, found: Contents, landing: Landing) -> tuple[dict[str, Any], bool]:
    done = landed(landing, kind, found.inputs)
    if done is not None:
        return done, True
    return land(landing, kind, found.rows, found.titles, found.inputs), False


def _data(directory: Path) -> Path:
    return directory / "data" if (directory / "data").is_dir() else directory


def _kuairec_rows(path: Path) -> Iterator[Interaction]:
    ranks: Counter[str] = Counter()
    needed = ("user_id", "video_id", "play_duration", "video_duration", "timestamp")
    for line, row in _rows(path, *needed):
        stamp = row["timestamp"].strip()
        if not stamp:
            continue  # the set itself has no time for some views: they can't be put into an order
        user, video = (integer(row[name], path, line) for name in ("user_id", "video_id"))
        watch, length = (integer(row[name], path, line) for name in ("play_duration", "video_duration"))
        ms = round(_number(stamp, path, line) * 1000)
        yield Interaction(f"u{user}", f"v{video}", ranks[f"u{user}"], ms, "view", watch, length)
        ranks[f"u{user}"] += 1


def _kuairand_rows(paths: list[Path]) -> Iterator[Interaction]:
    ranks: Counter[str] = Counter()
    for path in paths:
        for line, row in _rows(path, "user_id", "video_id", "time_ms", "play_time_ms", "duration_ms", *SIGNALS):
            numbers = (integer(row[name], path, line) for name in ("user_id", "video_id", "time_ms"))
            watch, length = (integer(row[name], path, line) for name in ("play_time_ms", "duration_ms"))
            number, video, ms = numbers
            user = f"u{number}"
            given = [kind for name, kind in SIGNALS.items() if row[name].strip() == "1"]
            for kind in ("view", *given):
                seen = (watch, length or None) if kind == "view" else (None, None)
                yield Interaction(user, f"v{video}", ranks[user], ms, kind, *seen)
                ranks[user] += 1


def _captions(path: Path) -> dict[str, str | None]:
    """The caption, else the text on the cover; some rows of the set are damaged, which costs them their title."""
    titles: dict[str, str | None] = {}
    for _, row in _rows(path, "video_id", "caption", "manual_cover_text", whole=False):
        if (row["video_id"] or "").strip().isdigit():
            texts = [(row[name] or "").strip() for name in ("caption", "manual_cover_text")]
            titles[f"v{int(row['video_id'])}"] = next((t for t in texts if t and t != "UNKNOWN"), None)
    return titles


def _rows(path: Path, *needed: str, whole: bool = True) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        there = [name.strip() for name in reader.fieldnames or []]
        for name in needed:
            if name not in there:
                raise SourceError(f"{path}:1: no column {name}; found {', '.join(there) or 'nothing'}")
        for row in reader:
            if whole and (None in row or None in row.values()):
                raise SourceError(f"{path}:{reader.line_num}: expected {len(there)} cells as in the header")
            yield reader.line_num, row


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{path}:{line}: expected a timestamp in seconds, found {text!r}")
    return value
