"""Reader of RecBole's atomic files: NAME.inter (tab separated, header of name:type), NAME.item with a title-like column."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mealrec.sources.landing import Landing, SourceError
from mealrec.sources.public import Contents, Interaction, find, land, landed

USER, ITEM, TIME = "user_id", "item_id", "timestamp"
SECONDS_BELOW = 10**11  # a timestamp under this is in seconds (the year 5138), else in milliseconds


def read_recbole(directory: Path, landing: Landing) -> tuple[dict[str, Any], bool]:
    """Write landing files; returns what source.json holds and whether it was there already. Raises SourceError naming file,
    line and what was expected."""
    inputs = files(directory)
    done = landed(landing, "recbole", inputs)
    if done is not None:
        return done, True
    found = contents(directory)
    return land(landing, "recbole", found.rows, found.titles, inputs), False


def contents(directory: Path) -> Contents:
    """What the folder holds; without a .item file or a text column in it no video has a title. Rows keep the file's order,
    which is not the viewers' where there are timestamps. Raises SourceError like `read_recbole`."""
    inputs = files(directory)
    return Contents(_rows(inputs[0]), _titles(inputs[1]) if len(inputs) > 1 else {}, inputs)


def files(directory: Path) -> list[Path]:
    """NAME.inter, and NAME.item where there is one. Raises SourceError when there are none or several."""
    return [p for p in (find(directory, "*.inter"), find(directory, "*.item", required=False)) if p is not None]


@dataclass(frozen=True)
class _Table:
    """One atomic file: its columns' types in the file's order; rows are read as they are asked for."""

    path: Path
    kinds: dict[str, str]

    @classmethod
    def open(cls, path: Path, *needed: str) -> _Table:
        """Raises SourceError for a header that is not one, or lacks a needed column."""
        number, header = next(_lines(path), (1, []))
        named = [cell.strip().partition(":") for cell in header]
        if not named or not all(name and kind for name, _, kind in named):
            raise SourceError(f"{path}:{number}: expected a header of name:type columns separated by tabs")
        kinds = {name: kind for name, _, kind in named}
        if len(kinds) != len(named):
            raise SourceError(f"{path}:{number}: a column is named twice in {', '.join(header)}")
        for name in needed:
            if name not in kinds:
                raise SourceError(f"{path}:{number}: no column {name}:token; found {', '.join(kinds)}")
        return cls(path, kinds)

    def rows(self, *names: str) -> Iterator[tuple[int, list[str]]]:
        """Line number and the cells of `names`; a cell of an id is never empty."""
        places = [list(self.kinds).index(name) for name in names]
        lines = _lines(self.path)
        next(lines)
        for number, cells in lines:
            if len(cells) != len(self.kinds):
                raise SourceError(f"{self.path}:{number}: expected {len(self.kinds)} columns, found {len(cells)}")
            taken = [cells[place].strip() for place in places]
            for name, cell in zip(names, taken, strict=True):
                if not cell and name in (USER, ITEM):
                    raise SourceError(f"{self.path}:{number}: empty {name}")
            yield number, taken


def _rows(path: Path) -> Iterator[Interaction]:
    ranks: Counter[str] = Counter()
    table = _Table.open(path, USER, ITEM)
    timed = [TIME] if TIME in table.kinds else []
    for number, (user, item, *when) in table.rows(USER, ITEM, *timed):
        yield Interaction(user, item, ranks[user], _milliseconds(when[0], path, number) if when else None)
        ranks[user] += 1


def _titles(path: Path) -> dict[str, str | None]:
    table = _Table.open(path, ITEM)
    column = _title_column(table.kinds)
    if column is None:
        return {item: None for _, (item,) in table.rows(ITEM)}
    return {item: title or None for _, (item, title) in table.rows(ITEM, column)}


def _title_column(kinds: dict[str, str]) -> str | None:
    """`title`, else one that ends so, else the first text."""
    ending = [name for name in kinds if name.endswith("_title")]
    texts = [name for name, kind in kinds.items() if kind == "token_seq"]
    return next(iter([name for name in ("title",) if name in kinds] + ending + texts), None)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Cells of every line that is not blank, by its number. Bytes are split first: a title may hold any other line end."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"{path}:{number}: expected UTF-8 text, found {error.object[error.start :][:4]!r}"
                ) from None
            if text.strip():
                yield number, text.rstrip("\r\n").split("\t")


def _milliseconds(text: str, path: Path, line: int) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SourceError(f"{path}:{line}: expected a timestamp in seconds or milliseconds, found {text!r}")
    return round(value * 1000) if abs(value) < SECONDS_BELOW else round(value)
