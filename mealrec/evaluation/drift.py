"""Has what flows in moved away from what a model was trained on? Pure comparisons of two samples, one quantity each.

Shares of classes are compared by the population stability index, numbers by the two-sample Kolmogorov-Smirnov statistic. A
small sample moves by chance alone: a quantity is only called `warn` or `alarm` when it also exceeds what two samples of
these sizes from one source would reach with probability `significance`. Rows are taken as independent, though a viewer's
events are not quite: the bounds are for reading, not for proofs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from mealrec.config_operations import Bounds, DriftConfig

Measure = Literal["psi", "ks", "share", "ratio", "change"]
State = Literal["ok", "warn", "alarm"]
Numbers = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.integer[Any]]
LEAST_RUNS = 3  # earlier runs from which a median means anything


class Limits(Protocol):
    """What shares and counts of classes are judged by: DriftConfig, or ProfileConfig."""

    @property
    def psi(self) -> Bounds: ...
    @property
    def share(self) -> Bounds: ...
    @property
    def significance(self) -> float: ...


@dataclass(frozen=True)
class Quantity:
    """One compared quantity. value: how far it moved by `measure`; chance: how far it moves by chance; then, now: in words."""

    group: str
    name: str
    measure: Measure
    value: float
    chance: float
    warn: float
    alarm: float
    state: State
    then: str
    now: str
    reference_rows: int
    current_rows: int

    @property
    def moved(self) -> str:
        return f"{self.then} -> {self.now}"

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"moved": self.moved}


def psi(reference: Counts, current: Counts) -> float:
    """Population stability index of two count vectors over the same classes: sum of (q - p) ln(q / p), p and q being their
    shares (Siddiqi, Credit Risk Scorecards, 2006, whose rule of thumb is below .1 stable, above .25 moved).

    Half a row is added to every class of both sides, so that an empty one gives a large number and not infinity."""
    p = (reference + 0.5) / (reference + 0.5).sum()
    q = (current + 0.5) / (current + 0.5).sum()
    return float(((q - p) * np.log(q / p)).sum())


def classes(
    group: str, name: str, reference: Sequence[Hashable], current: Sequence[Hashable], config: DriftConfig
) -> Quantity | None:
    """PSI over the values themselves; None where one side has no rows."""
    if not len(reference) or not len(current):
        return None
    before, now = Counter(reference), Counter(current)
    names = sorted(set(before) | set(now), key=str)
    counts = [np.array([side[n] for n in names], dtype=np.int64) for side in (before, now)]
    return counted(group, name, [str(n) for n in names], counts[0], counts[1], config)


def counted(
    group: str, name: str, names: Sequence[str], reference: Counts, current: Counts, config: Limits
) -> Quantity | None:
    """PSI of rows counted by class, and the class that moved most; None where one side has no rows.

    Chance: two samples of one source have a PSI of about (1/n + 1/m) chi-square of classes - 1 degrees of freedom."""
    rows = int(reference.sum()), int(current.sum())
    if not all(rows):
        return None
    shares = reference / rows[0], current / rows[1]
    most = int(np.abs(shares[1] - shares[0]).argmax())
    chance = stats.chi2.isf(config.significance, max(len(names) - 1, 1)) * _per_row(*rows)
    words = f"{names[most]}: {shares[0][most]:.1%}", f"{shares[1][most]:.1%}"
    return _judged(group, name, "psi", psi(reference, current), float(chance), config.psi, words, *rows)


def binned(
    group: str, name: str, reference: Numbers, current: Numbers, edges: Sequence[float], config: DriftConfig
) -> Quantity | None:
    """PSI over fixed bins [edge, next edge); what lies outside falls into the first or last one."""
    inner = np.asarray(edges)[1:-1]
    labels = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
    sides = [[labels[i] for i in np.digitize(side, inner)] for side in (reference, current)]
    return classes(group, name, sides[0], sides[1], config)


def values(group: str, name: str, reference: Numbers, current: Numbers, config: DriftConfig) -> Quantity | None:
    """Two-sample Kolmogorov-Smirnov statistic; None where one side has fewer than two rows."""
    if min(len(reference), len(current)) < 2:
        return None
    found = float(stats.ks_2samp(reference, current, method="asymp").statistic)
    chance = float(stats.kstwobign.isf(config.significance)) * _per_row(len(reference), len(current)) ** 0.5
    words = f"median {np.median(reference):.4g}", f"{np.median(current):.4g}"
    return _judged(group, name, "ks", found, chance, config.ks, words, len(reference), len(current))


def share(
    group: str, name: str, reference: tuple[int, int], current: tuple[int, int], config: Limits
) -> Quantity | None:
    """Difference of two shares, each given as (how many, of how many); None where one is of nothing."""
    if not reference[1] or not current[1]:
        return None
    before, now = reference[0] / reference[1], current[0] / current[1]
    both = (reference[0] + current[0]) / (reference[1] + current[1])
    spread = (both * (1 - both) * _per_row(reference[1], current[1])) ** 0.5
    chance = float(stats.norm.isf(config.significance / 2)) * spread
    words = f"{before:.2%}", f"{now:.2%}"
    return _judged(group, name, "share", abs(now - before), chance, config.share, words, reference[1], current[1])


def change(group: str, name: str, reference: int, current: int, fall: Bounds, growth: Bounds) -> Quantity:
    """By what share of the old figure a count fell or grew. How many rows a table has is not a sample: chance has no part."""
    by = (current - reference) / max(reference, 1)
    words = f"{reference:,}", f"{current:,} ({by:+.1%})"
    bounds = fall if by < 0 else growth
    return _judged(group, name, "change", abs(by), 0.0, bounds, words, reference, current)


def duration(name: str, seconds: Sequence[float], config: DriftConfig) -> Quantity | None:
    """Newest run (first) against the median of the earlier ones; None with fewer than three of those."""
    if len(seconds) <= LEAST_RUNS:
        return None
    usual = median(seconds[1:])
    value = seconds[0] / max(usual, 1.0)  # a stage of less than a second is not worth a word
    words = f"{usual:.1f} s", f"{seconds[0]:.1f} s"
    return _judged("durations", name, "ratio", value, 1.0, config.duration, words, len(seconds) - 1, 1)


def worst(quantities: Sequence[Quantity]) -> State:
    states = {q.state for q in quantities}
    return "alarm" if "alarm" in states else "warn" if "warn" in states else "ok"


def _per_row(reference: int, current: int) -> float:
    return 1 / reference + 1 / current


def _judged(
    group: str,
    name: str,
    measure: Measure,
    value: float,
    chance: float,
    bounds: Bounds,
    words: tuple[str, str],
    *rows: int,
) -> Quantity:
    state: State = "ok"
    if value > chance:
        state = "alarm" if value >= bounds.alarm else "warn" if value >= bounds.warn else "ok"
    figures = (round(value, 5), round(chance, 5), bounds.warn, bounds.alarm)
    return Quantity(group, name, measure, *figures, state, *words, *rows)
