"""Is one system better than another, beyond what viewers and seeds do by chance?

Two levels: viewers are resampled, the same ones for both systems (a paired bootstrap), and the seeds of each system are
resampled too, because seeds alone move NDCG@10 by as much as a module does. Percentile intervals (Efron 1979).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mealrec.bench.results import Cell, Results
from mealrec.evaluation.metrics import gains, hits

SAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 50  # resamples at a time: memory is CHUNK x viewers
Values = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """Mean of a - b, its interval, the mean relative to b's, and how many seeds each had."""

    mean: float
    low: float
    high: float
    relative: float
    seeds: tuple[int, int]


def compare(
    a: Sequence[Values], b: Sequence[Values], *, samples: int = SAMPLES, confidence: float = CONFIDENCE, seed: int = 0
) -> Difference:
    """Interval of mean(a) - mean(b), each a list over seeds of one value a viewer [V], viewers in the same order.

    Deterministic in `seed`. Raises ValueError for no seeds or for different viewers. Cost: samples x (seeds + V)."""
    if not a or not b or len({len(values) for values in (*a, *b)}) != 1:
        raise ValueError("each system needs at least one seed, and values of the same viewers")
    first, second = np.stack(a), np.stack(b)
    rng = np.random.default_rng(seed)
    viewers = first.shape[1]
    means: list[Values] = []
    for at in range(0, samples, CHUNK):
        n = min(CHUNK, samples - at)
        drawn = [_seed_weights(rng, n, len(system)) @ system for system in (first, second)]  # [n, V]
        chosen = rng.integers(0, viewers, size=(n, viewers))
        means.append(np.take_along_axis(drawn[0] - drawn[1], chosen, 1).mean(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    base = float(second.mean())
    mean = float(first.mean()) - base
    return Difference(mean, float(low), float(high), mean / base if base else 0.0, (len(a), len(b)))


def _seed_weights(rng: np.random.Generator, n: int, seeds: int) -> Values:
    """How often each seed is in each of n resamples, as shares [n, seeds].

    Resampling S seeds varies their mean by (S - 1) / S of what it should; deviations from 1 / S are widened by
    sqrt(S / (S - 1)), without which an interval from 2 to 5 seeds is too narrow (simulated: .80 to .87 instead of .95)."""
    if seeds == 1:
        return np.ones((n, 1))
    share = rng.multinomial(seeds, [1 / seeds] * seeds, size=n) / seeds
    widened: Values = 1 / seeds + (share - 1 / seeds) * math.sqrt(seeds / (seeds - 1))
    return widened


class Retention(NamedTuple):
    """Share of the clean metric that is left under a condition, with its interval."""

    mean: float
    low: float
    high: float


def retention(clean: Sequence[Values], disturbed: Sequence[Values], *, seed: int = 0) -> Retention:
    """mean(disturbed) / mean(clean) over viewers and seeds; both lists by the same seeds."""
    drawn = _retentions(clean, disturbed, seed)
    mean = float(np.stack(disturbed).mean() / max(float(np.stack(clean).mean()), 1e-12))
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Retention(mean, float(low), float(high))


def retention_difference(
    a: tuple[Sequence[Values], Sequence[Values]], b: tuple[Sequence[Values], Sequence[Values]], *, seed: int = 0
) -> Retention:
    """Retention of a (clean, disturbed) minus that of b on the same resampled viewers; seeds of each by themselves."""
    drawn = _retentions(*a, seed) - _retentions(*b, seed, stream=2)
    mean = retention(*a, seed=seed).mean - retention(*b, seed=seed).mean
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Retention(mean, float(low), float(high))


def _retentions(clean: Sequence[Values], disturbed: Sequence[Values], seed: int, *, stream: int = 1) -> Values:
    before, after = np.stack(clean), np.stack(disturbed)
    viewers_rng, seeds_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, stream])
    out: list[Values] = []
    for at in range(0, SAMPLES, CHUNK):
        n = min(CHUNK, SAMPLES - at)
        chosen = viewers_rng.integers(0, before.shape[1], size=(n, before.shape[1]))
        weight = _seed_weights(seeds_rng, n, len(before))
        top = np.take_along_axis(weight @ after, chosen, 1).mean(1)
        out.append(top / np.maximum(np.take_along_axis(weight @ before, chosen, 1).mean(1), 1e-12))
    return np.concatenate(out)


def values_of(results: Results, dataset: str, model: str, metric: str, variant: str = "") -> list[Values]:
    """One array a seed of the metric of every viewer; cells whose ranks are not here are left out. Raises ValueError for a
    metric other than ndcg@10 and hr@10."""
    return list(_by_seed(results, dataset, model, metric, variant).values())


def _by_seed(results: Results, dataset: str, model: str, metric: str, variant: str = "") -> dict[int, Values]:
    if metric not in ("ndcg@10", "hr@10"):
        raise ValueError(f"unknown metric {metric!r}; valid: ndcg@10, hr@10")
    out: dict[int, Values] = {}
    for cell in results.select(dataset, model, variant):
        if results.has(cell.key, cell.digest):
            ranks = torch.from_numpy(results.ranks(cell.key).astype(np.int64))
            out[cell.seed] = (gains(ranks, 10) if metric == "ndcg@10" else hits(ranks, 10)).numpy()
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
    """All that tables state with an interval, for the result file: kind "difference" (`system` against every other row on
    NDCG@10 and HR@10, the best baseline marked), "backbone" (plug-ins on against off), "retention" (share of HR@10 kept with
    a disturbed history, and how much more of it `system` keeps).

    Ranks are not committed. A stored comparison stays where this machine lacks some of its ranks and its cells are the same as
    then (`cells`, a hash): a run that adds one row to a fresh checkout does not drop what the file states of the others."""
    out: list[dict[str, Any]] = []
    for dataset in results.datasets():
        best = best_baseline(results, dataset, baselines)
        made = _differences(results, dataset, best, system)
        made += _backbones(results, dataset, system)
        made += _kept(results, dataset, system)
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


def _differences(results: Results, dataset: str, best: str | None, system: str) -> list[dict[str, Any]]:
    out = []
    for metric in ("ndcg@10", "hr@10"):
        own = values_of(results, dataset, system, metric)
        for other in results.models(dataset):
            theirs = values_of(results, dataset, other, metric)
            if other != system and own and theirs:
                names = {"kind": "difference", "dataset": dataset, "model": system, "against": other, "metric": metric}
                out.append(names | compare(own, theirs)._asdict() | {"best_baseline": other == best})
    return out


def _backbones(results: Results, dataset: str, system: str) -> list[dict[str, Any]]:
    out = []
    for backbone in ("sasrec", "gru4rec", "bert4rec", "nextitnet"):
        on = system if backbone == "sasrec" else f"{backbone}+{system}"
        for off in (backbone, f"{backbone}+content"):
            both = [values_of(results, dataset, model, "ndcg@10") for model in (on, off)]
            if all(both):
                names = {"kind": "backbone", "dataset": dataset, "backbone": backbone, "model": on, "against": off}
                out.append(names | compare(*both)._asdict())
    return out


def _kept(results: Results, dataset: str, system: str) -> list[dict[str, Any]]:
    out = []
    for variant in sorted({c.variant for c in results.cells.values() if c.dataset == dataset and c.variant}):
        own = _clean_and_disturbed(results, dataset, system, variant)
        for model in results.models(dataset):
            pair = _clean_and_disturbed(results, dataset, model, variant)
            if pair is None:
                continue
            names = {"kind": "retention", "dataset": dataset, "model": model, "variant": variant}
            more = retention_difference(own, pair)._asdict() if own is not None and model != system else None
            out.append(names | retention(*pair)._asdict() | {"system_keeps_more": more})
    return out


def _clean_and_disturbed(
    results: Results, dataset: str, model: str, variant: str
) -> tuple[list[Values], list[Values]] | None:
    """HR@10 of every viewer, clean and under the condition, of the seeds that have both; None when no seed has."""
    clean, disturbed = (_by_seed(results, dataset, model, "hr@10", v) for v in ("", variant))
    both = [seed for seed in clean if seed in disturbed]
    return ([clean[s] for s in both], [disturbed[s] for s in both]) if both else None
