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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from mealrec.config_operations import Bounds, DriftConfig

Measure = Literal["psi", "ks", "share", "ratio"]
State = Literal["ok", "warn", "alarm"]
Numbers = npt.NDArray[np.floating[Any]]
LEAST_RUNS = 3  # earlier runs from which a median means anything


@dataclass(frozen=True)
class Quantity:
    """One compared quantity. value: how far it moved by `measure`; chance: how far it moves by chance; moved: in words."""

    group: str
    name: str
    measure: Measure
    value: float
    chance: float
    warn: float
    alarm: float
    state: State
    moved: str
    reference_rows: int
    current_rows: int

    def row(self) -> dict[str, Any]:
        return asdict(self)


def psi(reference: npt.NDArray[np.integer[Any]], current: npt.NDArray[np.integer[Any]]) -> float:
    """Population stability index of two count vectors over the same classes: sum of (q - p) ln(q / p).

    Half a row is added to every class, so that an empty one gives a large number and not infinity."""
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
    shares = [side / side.sum() for side in counts]
    most = int(np.abs(shares[1] - shares[0]).argmax())
    chance = stats.chi2.isf(config.significance, max(len(names) - 1, 1)) * _per_row(len(reference), len(current))
    moved = f"{names[most]}: {shares[0][most]:.1%} -> {shares[1][most]:.1%}"
    return _judged(group, name, "psi", psi(*counts), float(chance), config.psi, moved, len(reference), len(current))


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
    moved = f"median {np.median(reference):.4g} -> {np.median(current):.4g}"
    return _judged(group, name, "ks", found, chance, config.ks, moved, len(reference), len(current))


def share(
    group: str, name: str, reference: tuple[int, int], current: tuple[int, int], config: DriftConfig
) -> Quantity | None:
    """Difference of two shares, each given as (how many, of how many); None where one is of nothing."""
    if not reference[1] or not current[1]:
        return None
    before, now = reference[0] / reference[1], current[0] / current[1]
    both = (reference[0] + current[0]) / (reference[1] + current[1])
    spread = (both * (1 - both) * _per_row(reference[1], current[1])) ** 0.5
    chance = float(stats.norm.isf(config.significance / 2)) * spread
    moved = f"{before:.2%} -> {now:.2%}"
    return _judged(group, name, "share", abs(now - before), chance, config.share, moved, reference[1], current[1])


def duration(name: str, seconds: Sequence[float], config: DriftConfig) -> Quantity | None:
    """Newest run (first) against the median of the earlier ones; None with fewer than three of those."""
    if len(seconds) <= LEAST_RUNS:
        return None
    usual = median(seconds[1:])
    value = seconds[0] / max(usual, 1.0)  # a stage of less than a second is not worth a word
    moved = f"{usual:.1f} s -> {seconds[0]:.1f} s"
    return _judged("durations", name, "ratio", value, 1.0, config.duration, moved, len(seconds) - 1, 1)


def worst(quantities: Sequence[Quantity]) -> State:
    states = {q.state for q in quantities}
    return "alarm" if "alarm" in states else "warn" if "warn" in states else "ok"


def _per_row(reference: int, current: int) -> float:
    return 1 / reference + 1 / current


def _judged(
    group: str, name: str, measure: Measure, value: float, chance: float, bounds: Bounds, moved: str, *rows: int
) -> Quantity:
    state: State = "ok"
    if value > chance:
        state = "alarm" if value >= bounds.alarm else "warn" if value >= bounds.warn else "ok"
    figures = (round(value, 5), round(chance, 5), bounds.warn, bounds.alarm)
    return Quantity(group, name, measure, *figures, state, moved, *rows)
