"""Plots of a report as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"mealrec": "#c2410c", "markov": "#0f766e", "popularity": "#64748b"}
STAGE_SHADES = {"warmup": "#f1f5f9", "joint": "#fff7ed"}
pyplot.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "mealrec",  # the same figures give the same bytes
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
    }
)


def curves(entries: Sequence[Mapping[str, Any]]) -> str:
    """Training loss and validation NDCG@10 over epochs, the stages shaded."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.9))
    epochs = [e["epoch"] for e in entries]
    for axis, key, label in (
        (left, "loss_next_item", "training loss (next item)"),
        (right, "ndcg@10", "valid NDCG@10"),
    ):
        for stage, shade in STAGE_SHADES.items():
            own = [e["epoch"] for e in entries if e["stage"] == stage]
            if own:
                axis.axvspan(min(own) - 0.5, max(own) + 0.5, color=shade, zorder=0)
                height = 1.02
                where = axis.get_xaxis_transform()
                axis.text(min(own) - 0.4, height, stage, transform=where, fontsize=8, color="#475569")
        axis.plot(epochs, [e.get(key, float("nan")) for e in entries], color=COLOURS["mealrec"], lw=1.8)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
    return _svg(figure)


def bars(metrics: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """Metrics of each system side by side."""
    figure, axis = pyplot.subplots(figsize=(9, 2.9))
    width = 0.8 / len(metrics)
    for number, (system, values) in enumerate(metrics.items()):
        at = [i + (number - (len(metrics) - 1) / 2) * width for i in range(len(names))]
        axis.bar(at, [values[n] for n in names], width, label=system, color=COLOURS.get(system, "#94a3b8"))
    axis.set_xticks(range(len(names)), [n.upper() for n in names])
    axis.legend(frameon=False, ncol=len(metrics), loc="upper left", bbox_to_anchor=(0, 1.16))
    return _svg(figure)


def slices(rows: Sequence[Mapping[str, Any]], systems: Sequence[str]) -> str:
    """HR@10 of each system by slice."""
    figure, axis = pyplot.subplots(figsize=(9, 0.55 * len(rows) + 0.9))
    height = 0.8 / len(systems)
    for number, system in enumerate(systems):
        at = [i + (number - (len(systems) - 1) / 2) * height for i in range(len(rows))]
        axis.barh(at, [r[system] for r in rows], height, label=system, color=COLOURS.get(system, "#94a3b8"))
    axis.set_yticks(range(len(rows)), [f"{r['slice']} ({r['viewers']})" for r in rows])
    axis.invert_yaxis()
    axis.set_xlabel("HR@10")
    axis.legend(frameon=False, ncol=len(systems), loc="lower left", bbox_to_anchor=(0, 1.0))
    return _svg(figure)


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.tight_layout()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
