"""Plots of result files: HR@10 against the replaced share of the history, and NDCG@10 of every model, with intervals.

Bars and bands are central 95 % bootstrap intervals of a model's own mean over viewers and seeds; whether two models differ is
what the paired intervals of the tables say, which are narrower than two bands look. Without ranks there are no bands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot

from mealrec.bench.compare import values_by_seed
from mealrec.bench.conditions import SHARES
from mealrec.bench.intervals import Span, own_span, sampled
from mealrec.bench.results import Results

STABLE = {"svg.fonttype": "none", "svg.hashsalt": "mealrec"}  # the same figures give the same bytes
SAMPLES = 500
VARIANTS = ("", *(f"replace={share}" for share in SHARES))


def robustness(result: Results, dataset: str, path: Path) -> Path | None:
    """HR@10 against the replaced share, a line a model that has every share; None, and no file, where none has."""
    with pyplot.rc_context(STABLE):
        figure, axis = pyplot.subplots(figsize=(6, 4))
        for model in result.models(dataset):
            spans = [span(result, dataset, model, "hr@10", variant) for variant in VARIANTS]
            found = [s for s in spans if s is not None]
            if len(found) == len(VARIANTS):
                mean, low, high = zip(*found, strict=True)
                shares = [0.0, *SHARES]
                (line,) = axis.plot(shares, mean, marker="o", label=model)
                axis.fill_between(shares, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(xlabel="share of the history replaced", ylabel="test HR@10", title=dataset)
        if not axis.lines:
            pyplot.close(figure)
            return None
        return _save(figure, axis, path)


def bars(result: Results, dataset: str, path: Path) -> Path | None:
    """Test NDCG@10 of every model with its interval, best first; None, and no file, without cells."""
    every = [(model, span(result, dataset, model, "ndcg@10")) for model in result.models(dataset)]
    rows = sorted(((m, s) for m, s in every if s is not None), key=lambda row: row[1][0])
    if not rows:
        return None
    with pyplot.rc_context(STABLE):
        figure, axis = pyplot.subplots(figsize=(6, 0.32 * len(rows) + 1.2))
        colours = ["#c2410c" if model == "mealrec" else "#94a3b8" for model, _ in rows]
        means = [s[0] for _, s in rows]
        arms = [[max(s[0] - s[1], 0.0) for _, s in rows], [max(s[2] - s[0], 0.0) for _, s in rows]]
        axis.barh([model for model, _ in rows], means, color=colours, xerr=arms, error_kw={"lw": 1})
        axis.set(xlabel="test NDCG@10", title=dataset)
        return _save(figure, None, path)


def span(result: Results, dataset: str, model: str, metric: str, variant: str = "") -> Span | None:
    """(mean, low, high) of the metric over viewers and seeds; low = high = mean where ranks of a seed are not here; None
    without cells. metric: ndcg@10 or hr@10."""
    cells = result.select(dataset, model, variant)
    if not cells:
        return None
    values = list(values_by_seed(result, dataset, model, metric, variant).values())
    if len(values) < len(cells):
        mean = float(np.mean([c.metrics["test"][metric] for c in cells]))
        return Span(mean, mean, mean)
    return own_span(sampled(values, samples=SAMPLES))


def _save(figure: Any, legend: Any, path: Path) -> Path:
    """As the suffix says, svg or png."""
    if legend is not None:
        legend.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    pyplot.close(figure)
    return path
