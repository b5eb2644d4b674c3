"""One cell of a result table: a row trained on a dataset with a seed, and ready to be ranked under any condition.

Everything here runs on torch and numpy alone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mealrec.bench.folder import data_digest
from mealrec.bench.rows import NETWORK, OF_DATASET, SHARED, Row
from mealrec.bench.tokens import destroyed
from mealrec.data.packed import Packed
from mealrec.evaluation.ranking import Scorer, model_scorer, plain_scorer
from mealrec.model.baselines import ItemKNN, Markov, Popularity
from mealrec.model.baselines.dcrec import DCRec
from mealrec.model.baselines.diffrec import DiffRec, LDiffRec, TDiffRec
from mealrec.model.baselines.dreamrec import DreamRec
from mealrec.model.baselines.ld4mrec import LD4MRec
from mealrec.model.baselines.protocol import Trainable
from mealrec.model.inference import Gather, describe_range
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training.facts import baseline_facts
from mealrec.training.fit import fit
from mealrec.training.loop import State, Trainer
from mealrec.training.optimiser import DIFFUSION_PARTS
from mealrec.training.settings import TrainSettings
from mealrec.training.step import Catalogue

Say = Callable[[str], None]
TRAINED: dict[str, type[Trainable]] = {
    "dreamrec": DreamRec,
    "diffrec": DiffRec,
    "t-diffrec": TDiffRec,
    "l-diffrec": LDiffRec,
    "ld4mrec": LD4MRec,
    "dcrec": DCRec,
}
SEQUENTIAL = ("dreamrec", "dcrec")  # those that need the length of the window
WARM_FIELDS = ("content", "backbone", "layers", "heads", "width", "dropout", "id_dropout", "max_history", "temperature")


@dataclass(frozen=True)
class Ready:
    """A trained row. scorer: scores of histories; model: the network, None for other rows; epochs, seconds: of training;
    curves: one dict an epoch; valid: best validation NDCG@10 (nan for rows that are only computed); rescore: the scorer with
    content as another `gather` gives it, None for rows that read none."""

    scorer: Scorer
    model: MealRec | None
    data: Packed
    epochs: int
    seconds: float
    valid: float
    curves: list[dict[str, Any]] = field(default_factory=list)
    rescore: Callable[[Gather], Scorer] | None = None


def complete_settings(row: Row, chosen: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """Every hyper-parameter of a cell: shared ones, the dataset's, the row's own, then the chosen ones."""
    if row.kind == "counts":
        return {**row.settings, **chosen}
    base = {**SHARED, **(NETWORK if row.kind == "model" else {}), **OF_DATASET.get(dataset, {})}
    return {**base, **row.settings, **chosen}


def train_cell(
    row: Row,
    data: Packed,
    settings: Mapping[str, Any],
    *,
    seed: int,
    warm: Path | None = None,
    say: Say = lambda line: None,
    device: torch.device | str = "cpu",
) -> Ready:
    """Train one cell. warm: a folder where warm-up stages are kept, so that rows which differ in TCD and NPD alone share
    theirs. Raises ValueError naming a setting that nothing reads."""
    began = time.monotonic()
    if row.kind == "counts":
        return Ready(_counted(row, data, settings), None, data, 0, time.monotonic() - began, float("nan"))
    if row.kind == "trained":
        return _trained(row, data, settings, seed, say, device)
    return _network(row, destroyed(data, row.frames, seed), settings, seed, warm, say, device)


def _counted(row: Row, data: Packed, settings: Mapping[str, Any]) -> Scorer:
    sequence, first = data.training_part()
    counts = data.content.train_count()
    if row.name == "popularity":
        return Popularity(counts).scores
    steps, starts = torch.from_numpy(sequence), torch.from_numpy(first)
    if row.name == "markov":
        return Markov(steps, starts, counts).scores
    return ItemKNN(steps, starts, counts, **settings).scores


def _trained(
    row: Row, data: Packed, settings: Mapping[str, Any], seed: int, say: Say, device: torch.device | str
) -> Ready:
    began = time.monotonic()
    optimisation, own = _split(settings)
    max_history = own["max_history"] if row.name in SEQUENTIAL else own.pop("max_history")
    torch.manual_seed(seed)
    model = TRAINED[row.name](baseline_facts(data, optimisation.negatives, device), **own)
    fitted = fit(model, data, optimisation, seed=seed, max_history=max_history, say=say, device=device)
    best = max(c["ndcg@10"] for c in fitted.curves)
    took = time.monotonic() - began
    return Ready(torch.no_grad()(fitted.model.scores), None, data, len(fitted.curves), took, best, fitted.curves)


def _network(
    row: Row,
    data: Packed,
    settings: Mapping[str, Any],
    seed: int,
    warm: Path | None,
    say: Say,
    device: torch.device | str,
) -> Ready:
    began = time.monotonic()
    optimisation, own = _split(settings)
    unknown = sorted(set(own) - set(ModelSettings.__dataclass_fields__))
    if unknown:
        raise ValueError(f"{row.name}: nothing reads {', '.join(unknown)}")
    shape = ModelSettings(**(data.content.dims | own))
    torch.manual_seed(seed)
    state = State.fresh(MealRec(shape).to(device), optimisation)
    trainer = Trainer(data, optimisation, seed=seed, say=say, device=device)
    kept = _Warm(warm, row, data, settings, seed) if warm is not None else None
    spent = kept.restore(state, trainer) if kept is not None else 0.0
    trainer.run(state, on_stage=lambda s: kept.keep(s, time.monotonic() - began) if kept is not None else None)
    model = state.model.eval()
    took = time.monotonic() - began + spent
    facts = trainer.facts

    def rescore(gather: Gather) -> Scorer:
        return scorer_of(model, facts, gather)

    return Ready(
        rescore(data.content.gather),
        model,
        data,
        state.progress.total_epochs,
        took,
        state.progress.best_valid,
        state.progress.curves,
        rescore if shape.content else None,
    )


def scorer_of(model: MealRec, facts: Catalogue, gather: Gather) -> Scorer:
    """Scores with content as `gather` gives it, of histories and candidates alike. Cost: one item-mode run a video."""
    settings = model.settings
    described = describe_range(model, gather, 1, settings.items + 1).described
    padded = torch.cat([torch.zeros_like(described[:1]), described])
    with torch.no_grad():
        vectors = model.catalogue(padded, facts.available, facts.log_popularity)
    if settings.is_plain:
        return plain_scorer(model, vectors)
    return model_scorer(model, gather, vectors)


def _split(settings: Mapping[str, Any]) -> tuple[TrainSettings, dict[str, Any]]:
    names = {f.name for f in fields(TrainSettings)}
    optimisation = TrainSettings(**{k: v for k, v in settings.items() if k in names})
    return optimisation, {k: v for k, v in settings.items() if k not in names}


class _Warm:
    """The finished warm-up stage of a (dataset, seed, S0 settings), kept beside the results as plain arrays."""

    def __init__(self, folder: Path, row: Row, data: Packed, settings: Mapping[str, Any], seed: int) -> None:
        optimisation, own = _split(settings)
        relevant = {k: v for k, v in own.items() if k in WARM_FIELDS}
        text = json.dumps(
            [relevant, optimisation.__dict__, data.root.name, data_digest(data), row.frames, seed], sort_keys=True
        )
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self.written = self.path.is_file()

    def restore(self, state: State, trainer: Trainer) -> float:
        """Put the kept stage into `state`; returns the seconds it took when it was trained, 0 when there is none."""
        if not self.written:
            return 0.0
        body = json.loads(self.path.read_text())
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as held:
            kept = {name: torch.from_numpy(held[name]) for name in held.files}
        state.model.load_state_dict(state.model.state_dict() | kept)
        state.best = copy.deepcopy(state.model.state_dict())
        state.progress.curves = body["curves"]
        state.progress.epoch = state.progress.total_epochs = len(body["curves"])
        state.progress.best = body["best"]
        state.progress.waited = trainer.config.patience
        return float(body["seconds"])

    def keep(self, state: State, seconds: float) -> None:
        """Write the finished warm-up stage; the JSON last, so that it marks a whole one."""
        if state.progress.stage != "warmup" or self.written:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        shared = {k: v.cpu().numpy() for k, v in state.best.items() if not k.startswith(DIFFUSION_PARTS)}
        np.savez(self.path.with_suffix(".npz"), allow_pickle=False, **shared)
        body = {"curves": state.progress.curves, "best": state.progress.best, "seconds": seconds}
        self.path.write_text(json.dumps(body))
