"""The audit trail of promotions: an append-only table whose next row exactly one writer gets.

MLflow's aliases have no history and the last writer wins. So a move is first a row of the table `promotions`, committed as
the very next version after the one its decision was read from: of two racing moves one is committed, the other is told.
Aliases then follow the trail (mealrec.registry.promotion.follow). Cost: the trail is read whole; it grows by a row a decision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import pyarrow as pa

from mealrec.lake import Lake, Provenance
from mealrec.schema import PROMOTIONS, SCHEMAS

Action = Literal["promoted", "rolled back", "refused"]
MOVES: tuple[Action, ...] = ("promoted", "rolled back")


@dataclass(frozen=True)
class Entry:
    """One decision about a version: who made it, when, from which champion, and why."""

    model: str
    action: Action
    version: str
    from_version: str | None
    who: str
    when: str
    reasons: tuple[str, ...] = ()
    run_id: str = ""


@dataclass(frozen=True)
class Trail:
    """The trail of one model as of table version `base` (-1: there is no table yet), oldest entry first."""

    model: str
    base: int
    entries: tuple[Entry, ...]

    @property
    def moved(self) -> Entry | None:
        """The newest entry that moved the champion."""
        return next((e for e in reversed(self.entries) if e.action in MOVES), None)

    @property
    def champion(self) -> str | None:
        return self.moved.version if self.moved else None

    @property
    def previous(self) -> str | None:
        return self.moved.from_version if self.moved else None

    def decision(self, version: str) -> Entry | None:
        """What the gate said of a version last, None when it was not asked yet."""
        return next((e for e in reversed(self.entries) if e.version == version and e.action != "rolled back"), None)


def read(lake: Lake, model: str) -> Trail:
    """The trail as it stands. Entries keep the order of their commits."""
    newest = lake.version(PROMOTIONS)
    if newest is None:
        return Trail(model, -1, ())
    rows = lake.read(PROMOTIONS, newest).to_pylist()
    entries = [(row["sequence"], _entry(row)) for row in rows if row["model"] == model]
    return Trail(model, newest, tuple(entry for _, entry in sorted(entries, key=lambda pair: pair[0])))


def append(lake: Lake, trail: Trail, entry: Entry) -> Trail:
    """Commit `entry` as the next one after `trail`. Raises mealrec.lake.LostRace when somebody was faster."""
    row = asdict(entry) | {"sequence": trail.base + 1, "reasons": list(entry.reasons)}
    rows = pa.Table.from_pylist([row], schema=SCHEMAS[PROMOTIONS])
    made = Provenance("promote", f"{entry.model}/{entry.version}/{entry.action}", entry.run_id)
    base = lake.append_at(PROMOTIONS, trail.base, rows, made)
    return replace(trail, base=base, entries=(*trail.entries, entry))


def _entry(row: dict[str, object]) -> Entry:
    values = {name: row[name] for name in Entry.__dataclass_fields__}
    return Entry(**{**values, "reasons": tuple(values["reasons"] or ())})  # type: ignore[arg-type]
