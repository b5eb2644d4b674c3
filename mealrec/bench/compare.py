"""All that the tables state with an interval, made from a result file's ranks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from mealrec.bench.conditions import STRANGERS
from mealrec.bench.intervals import (
    Sampled,
    Values,
    difference,
    retention,
    retention_difference,
    sampled,
)
from mealrec.bench.results import Cell, Results
from mealrec.bench.rows import CROSSED, OFF
from mealrec.evaluation.metrics import gains, hits


class Quantity(NamedTuple):
    """What is averaged over viewers: a metric of a model, its histories as they are or under a condition."""

    model: str
    metric: str
    variant: str = ""


class Resamples:
    """Every quantity of a dataset, all of them over the same resampled viewers, made in one pass over the draws. Memory: twice
    8 bytes a viewer, seed and quantity (120 MB for 50,000 viewers and 150 of them)."""

    def __init__(self, results: Results, dataset: str, wanted: Iterable[Quantity]) -> None:
        self.seeds: dict[Quantity, list[int]] = {}
        columns: list[Values] = []
        self._at: dict[tuple[Quantity, int], int] = {}
        for quantity in wanted:
            found = values_by_seed(results, dataset, *quantity)
            self.seeds[quantity] = sorted(found)
            for seed in self.seeds[quantity]:
                self._at[quantity, seed] = len(columns)
                columns.append(found[seed])
        self._all = sampled(columns) if columns else None

    def of(self, quantity: Quantity, seeds: Sequence[int] | None = None) -> Sampled | None:
        """None where no cell of it has its ranks here. seeds: all, unless told."""
        chosen = [self._at[quantity, s] for s in (self.seeds.get(quantity, []) if seeds is None else seeds)]
        if self._all is None or not chosen:
            return None
        return Sampled(self._all.means[chosen], self._all.resampled[:, chosen])


def values_by_seed(results: Results, dataset: str, model: str, metric: str, variant: str = "") -> dict[int, Values]:
    """The metric of every viewer by seed; cells whose ranks are not here are left out. Raises ValueError for a metric other
    than ndcg@10 and hr@10."""
    if metric not in ("ndcg@10", "hr@10"):
        raise ValueError(f"unknown metric {metric!r}; valid: ndcg@10, hr@10")
    out: dict[int, Values] = {}
    for cell in results.select(dataset, model, variant):
        if results.has(cell.key, cell.digest):
            ranks = torch.from_numpy(results.ranks(cell.key).astype(np.int64))
            out[cell.seed] = (gains(ranks, 10) if metric == "ndcg@10" else hits(ranks, 10)).double().numpy()
    return out


def best_baseline(results: Results, dataset: str, names: Sequence[str]) -> str | None:
    """The baseline of highest mean validation NDCG@10: chosen on validation, never on test."""
    means = {}
    for name in names:
        cells = results.select(dataset, name)
        if cells:
            means[name] = float(np.mean([c.metrics["valid"]["ndcg@10"] for c in cells]))
    return max(means, key=lambda n: means[n]) if means else None


def compare_all(results: Results, baselines: Sequence[str], *, system: str = "mealrec") -> list[dict[str, Any]]:
    """All that tables state with an interval, for the result file, by kind. "difference": `system` against every other row on
    NDCG@10 and HR@10, the best baseline marked. "backbone": the whole model against the rows of OFF, and "backbone kept": how
    much more of its HR@10 it keeps than they do where STRANGERS stand in the history, on backbones other than SASRec.
    "retention": the share of HR@10 kept under each condition, and how much more of it `system` keeps.

    A stored comparison stays where some of its ranks are not here and its cells are the same as then (`cells`, a hash): a run
    that adds one row to a file without ranks does not drop what the file states of the others. Raises ResultsError for cells
    of one dataset that are of several protocols or of other data."""
    results.check_alike()
    out: list[dict[str, Any]] = []
    for dataset in results.datasets():
        best = best_baseline(results, dataset, baselines)
        means = Resamples(results, dataset, _quantities(results, dataset))
        made = _differences(means, results.models(dataset), dataset, best, system)
        made += _backbones(means, dataset, system)
        made += _kept(means, results.models(dataset), dataset, system)
        for entry in made:
            entry["cells"] = _fingerprint(_involved(results, entry, system))
        out += _with_stored(results, dataset, made, system, best)
    return out


def _with_stored(
    results: Results, dataset: str, made: list[dict[str, Any]], system: str, best: str | None
) -> list[dict[str, Any]]:
    """`made`, and in place of what was made of a part of the ranks, or could not be, what is stored of the same cells."""
    found = {_identity(entry): entry for entry in made}
    for entry in results.body["comparisons"]:
        cells = _involved(results, entry, system)
        whole = all(results.has(c.key, c.digest) for c in cells)
        if entry["dataset"] == dataset and not whole and entry.get("cells") == _fingerprint(cells):
            marked = {"best_baseline": entry["against"] == best} if entry["kind"] == "difference" else {}
            found[_identity(entry)] = entry | marked
    return [found[name] for name in sorted(found)]


def _identity(entry: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(entry.get(n, "")) for n in ("kind", "dataset", "metric", "model", "against", "variant"))


def _involved(results: Results, entry: dict[str, Any], system: str) -> list[Cell]:
    """The cells that a comparison is made of."""
    models = {entry["model"], entry.get("against", system)}
    variants = {"", entry.get("variant", "")}
    own = [results.select(entry["dataset"], model, v) for model in sorted(models) for v in sorted(variants)]
    return [cell for cells in own for cell in cells]


def _fingerprint(cells: Sequence[Cell]) -> str:
    """Changes when a cell is added, made with other settings, or made again."""
    text = json.dumps([[*cell.key, cell.digest, cell.finished] for cell in cells])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quantities(results: Results, dataset: str) -> list[Quantity]:
    """NDCG@10 and HR@10 of every model, and HR@10 of every condition."""
    clean = [Quantity(model, metric) for model in results.models(dataset) for metric in ("ndcg@10", "hr@10")]
    cells = [c for c in results.cells.values() if c.dataset == dataset and c.variant]
    return clean + sorted({Quantity(c.model, "hr@10", c.variant) for c in cells})


def _differences(
    means: Resamples, models: Sequence[str], dataset: str, best: str | None, system: str
) -> list[dict[str, Any]]:
    out = []
    for metric in ("ndcg@10", "hr@10"):
        own = means.of(Quantity(system, metric))
        for other in models:
            theirs = means.of(Quantity(other, metric))
            if other != system and own is not None and theirs is not None:
                names = {"kind": "difference", "dataset": dataset, "model": system, "against": other, "metric": metric}
                out.append(names | difference(own, theirs)._asdict() | {"best_baseline": other == best})
    return out


def _backbones(means: Resamples, dataset: str, system: str) -> list[dict[str, Any]]:
    out = []
    for backbone in ("sasrec", *CROSSED):
        on = system if backbone == "sasrec" else f"{backbone}+{system}"
        for off in (f"{backbone}{parts}" for parts in OFF):
            names = {"dataset": dataset, "backbone": backbone, "model": on, "against": off}
            with_it, without = (means.of(Quantity(model, "ndcg@10")) for model in (on, off))
            if with_it is not None and without is not None:
                out.append({"kind": "backbone"} | names | difference(with_it, without)._asdict())
            kept, lost = (_clean_and_disturbed(means, model, STRANGERS) for model in (on, off))
            if on != system and kept is not None and lost is not None:  # of `system` itself "retention" says it
                more = retention_difference(kept, lost)._asdict()
                out.append({"kind": "backbone kept", "variant": STRANGERS} | names | more)
    return out


def _kept(means: Resamples, models: Sequence[str], dataset: str, system: str) -> list[dict[str, Any]]:
    out = []
    for variant in sorted({q.variant for q in means.seeds if q.variant}):
        own = _clean_and_disturbed(means, system, variant)
        for model in models:
            pair = _clean_and_disturbed(means, model, variant)
            if pair is None:
                continue
            names = {"kind": "retention", "dataset": dataset, "model": model, "variant": variant}
            more = retention_difference(own, pair)._asdict() if own is not None and model != system else None
            out.append(names | retention(*pair)._asdict() | {"system_keeps_more": more})
    return out


def _clean_and_disturbed(means: Resamples, model: str, variant: str) -> tuple[Sampled, Sampled] | None:
    """HR@10 clean and under the condition, of the seeds that have both; None when no seed has."""
    before, after = Quantity(model, "hr@10"), Quantity(model, "hr@10", variant)
    both = [seed for seed in means.seeds.get(before, []) if seed in means.seeds.get(after, [])]
    clean, disturbed = means.of(before, both), means.of(after, both)
    return None if clean is None or disturbed is None else (clean, disturbed)
