"""The page of a data profile: figures, what moved, one plot a distribution. One HTML file, readable without a network.

The plots are a few bars each and written by the template: a plotting library takes two seconds for as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mealrec import full_disk
from mealrec.data.profile import Measured, Part
from mealrec.evaluation.drift import Quantity
from mealrec.evaluation.profile import REFERENCE, Key, aligned
from mealrec.evaluation.templates import environment

PARTS: dict[Part, str] = {"recent": "New days, beside the last week of the accepted profile", "whole": "All days"}
WIDTH, HEIGHT = 460, 120  # of a plot's bars, in pixels
LONGEST_LABEL = 22


@dataclass(frozen=True)
class ProfileData:
    """What the page shows. accepted: who accepted the profile it stands beside, when and why; None for the first."""

    version: int
    tables: Mapping[str, int]
    accepted: Mapping[str, Any] | None
    then: Sequence[Measured]
    now: Sequence[Measured]
    quantities: Sequence[Quantity]


def render(data: ProfileData, out: Path) -> Path:
    """Write the page as a whole. Everything that comes from data is escaped. Cost: one small plot a distribution."""
    before = {(part, one.group, one.name): one for part in PARTS for one in data.then if one.part == REFERENCE[part]}
    parts = {words: list(_plots(data.now, before, part)) for part, words in PARTS.items()}
    html = (
        environment()
        .get_template("profile.html")
        .render(
            title=f"Data profile, version {data.version}",
            accepted=data.accepted,
            tables=data.tables,
            times=_times(data.now),
            times_then=_times(data.then),
            cards=list(_cards(data.now, before)),
            moved=sorted((q for q in data.quantities if q.state != "ok"), key=lambda q: (q.state, -q.value)),
            compared=len(data.quantities),
            parts={words: found for words, found in parts.items() if found},
            shares=list(_shares(data.now, before)),
            width=WIDTH,
            height=HEIGHT,
        )
    )
    temporary = out.with_suffix(".part")
    with full_disk.named(str(out)):
        temporary.write_text(html, encoding="utf-8")
    return temporary.replace(out)


Before = Mapping[Key, Measured]  # by the part of now that it stands beside


def _cards(now: Sequence[Measured], before: Before) -> Iterator[dict[str, str]]:
    for one in now:
        if one.part == "whole" and one.kind == "count":
            then = before.get((one.part, one.group, one.name))
            yield {"name": one.name, "now": f"{one.counts[0]:,}", "then": f"{then.counts[0]:,}" if then else ""}


def _times(profile: Sequence[Measured]) -> str:
    """First and last event."""
    found = (one.counts for one in profile if one.part == "whole" and one.kind == "time")
    return "".join(
        " to ".join(f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}" for ms in counts) for counts in found
    )


def _plots(now: Sequence[Measured], before: Before, part: Part) -> Iterator[dict[str, Any]]:
    for one in now:
        if one.part == part and one.kind == "classes" and any(one.counts):
            then = before.get((one.part, one.group, one.name))
            labels, old, new = aligned(then, one) if then else (list(one.labels), [], list(one.counts))
            yield {"name": f"{one.group}: {one.name}"} | _bars(labels, _of_all(old), _of_all(new))


def _bars(labels: Sequence[str], then: Sequence[float], now: Sequence[float]) -> dict[str, Any]:
    """Bars side by side, the highest HEIGHT high; `top` is its share of rows."""
    top, width = max([*then, *now, 1e-9]), WIDTH / len(labels)
    bars = [
        {
            "label": short(label),
            "x": round(n * width, 1),
            "then": round(HEIGHT * then[n] / top, 1) if then else 0,
            "now": round(HEIGHT * now[n] / top, 1),
            "about": (f"{then[n]:.2%} then, " if then else "") + f"{now[n]:.2%} now",
        }
        for n, label in enumerate(labels)
    ]
    return {"bars": bars, "bar": round(width * 0.84, 1), "top": f"{top:.0%}"}


def _of_all(counts: Sequence[int]) -> list[float]:
    return [count / max(sum(counts), 1) for count in counts]


def short(label: str) -> str:
    """Without signs that can't be seen or that turn the text around, and no longer than its bar can bear."""
    plain = "".join(sign if sign.isprintable() else "?" for sign in label)
    return plain if len(plain) <= LONGEST_LABEL else plain[: LONGEST_LABEL - 1] + "…"


def _shares(now: Sequence[Measured], before: Before) -> Iterator[dict[str, str]]:
    for one in now:
        if one.kind == "share" and one.part in PARTS:
            then = before.get((one.part, one.group, one.name))
            name = f"{'new days: ' if one.part == 'recent' else ''}{one.group} {one.name}"
            yield {"name": name, "then": _share(then), "now": _share(one), "rows": f"{one.counts[1]:,}"}


def _share(one: Measured | None) -> str:
    return "" if one is None or not one.counts[1] else f"{one.counts[0] / one.counts[1]:.2%}"
