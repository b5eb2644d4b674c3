"""Have the tables moved from the profile that was accepted last? Pure comparison of two profiles, by the maths of `drift`.

What differs: `drift` looks afterwards at what a champion sees beside its training data and stops nothing; this looks at the
tables before anything is trained on them, and an alarm stops the night.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from mealrec.config_tables import ProfileConfig
from mealrec.data.histograms import OTHER
from mealrec.data.profile import DAY_MS, Measured, Part
from mealrec.evaluation.drift import Quantity, change, counted, share
from mealrec.schema import INTERACTIONS, ITEMS, SEQUENCES

# grows with the days that the table holds: compared where both hold about as many
CUMULATIVE = {(INTERACTIONS, "events_a_viewer"), (SEQUENCES, "history_length"), (ITEMS, "popularity")}
SAME_DAYS = 0.1
Key = tuple[Part, str, str]
RECENT = "new days: "
REFERENCE: dict[Part, Part] = {"whole": "whole", "recent": "week"}  # of the accepted profile


def compare(then: Iterable[Measured], now: Iterable[Measured], config: ProfileConfig) -> list[Quantity]:
    """Counts by relative change, shares and null rates by difference (a change of a rate near zero says nothing), distributions
    by PSI. New days stand beside the last week of the accepted profile: a log moves slowly for good reasons."""
    before, after = _by_key(then), _by_key(now)
    same_days = abs(_days(after) - _days(before)) <= SAME_DAYS * _days(before)
    found = [
        _one(one, before.get((REFERENCE[one.part], one.group, one.name)), config)
        for one in after.values()
        if one.part in REFERENCE and one.group != "rows" and (same_days or (one.group, one.name) not in CUMULATIVE)
    ]
    return [*_rows(before, after, config), *(quantity for quantity in found if quantity is not None)]


def aligned(then: Measured, now: Measured) -> tuple[list[str], list[int], list[int]]:
    """Labels of both and the rows of each. Where one side has folded rare values together, values that only one side names are
    folded as well."""
    before, after = (dict(zip(one.labels, one.counts, strict=True)) for one in (then, now))
    names = list(dict.fromkeys([*then.labels, *now.labels]))
    if OTHER in names:
        names = [name for name in names if name in before and name in after and name != OTHER]
    rows = [[side.get(name, 0) for name in names] for side in (before, after)]
    folded = [sum(side.values()) - sum(own) for side, own in zip((before, after), rows, strict=True)]
    if any(folded):
        return [*names, OTHER], [*rows[0], folded[0]], [*rows[1], folded[1]]
    return names, rows[0], rows[1]


def _rows(before: Mapping[Key, Measured], after: Mapping[Key, Measured], config: ProfileConfig) -> Iterator[Quantity]:
    how = (config.fall, config.growth)
    for (part, group, name), one in after.items():
        if part == "whole" and group == "rows" and (part, group, name) in before:
            yield change("rows", name, before[part, group, name].counts[0], one.counts[0], *how)
    span, span_now = (_span(side) for side in (before, after))
    if span and span_now:
        yield change("rows", "time_range_days", span, span_now, *how)
        yield change("rows", "days_still_covered", span, _shared(before, after), *how)
    if ("recent", "rows", INTERACTIONS) in after and ("week", "rows", INTERACTIONS) in before:
        yield change(f"{RECENT}rows", "interactions_a_day", _a_day(before, "week"), _a_day(after, "recent"), *how)


def _a_day(profile: Mapping[Key, Measured], part: Part) -> int:
    return round(profile[part, "rows", INTERACTIONS].counts[0] / profile[part, "rows", "days"].counts[0])


def _one(now: Measured, then: Measured | None, config: ProfileConfig) -> Quantity | None:
    group = f"{RECENT if now.part == 'recent' else ''}{now.group}"
    if then is None or now.kind not in ("share", "classes"):
        return None
    if now.kind == "share":
        return share(group, now.name, _pair(then.counts), _pair(now.counts), config)
    labels, before, after = aligned(then, now)
    return counted(group, now.name, labels, np.array(before), np.array(after), config)


def _pair(counts: Sequence[int]) -> tuple[int, int]:
    return counts[0], counts[1]


def _by_key(profile: Iterable[Measured]) -> dict[Key, Measured]:
    return {(one.part, one.group, one.name): one for one in profile}


def _days(profile: Mapping[Key, Measured]) -> int:
    return profile["whole", "rows", "days"].counts[0]


def _shared(*profiles: Mapping[Key, Measured]) -> int:
    """Days that lie in both time ranges: a range that moves as a whole is as long as before."""
    times = [profile["whole", INTERACTIONS, "time"].counts for profile in profiles]
    return max(min(last for _, last in times) // DAY_MS - max(first for first, _ in times) // DAY_MS + 1, 0)


def _span(profile: Mapping[Key, Measured]) -> int:
    """Days from the first event to the last, both counted; 0 without events."""
    times = profile.get(("whole", INTERACTIONS, "time"))
    return 0 if times is None else times.counts[1] // DAY_MS - times.counts[0] // DAY_MS + 1
