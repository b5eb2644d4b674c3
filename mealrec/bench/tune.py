"""`mealrec bench tune`: the same number of trials for every model, judged on validation alone (Optuna's TPE).

Trials are kept in one JSON file and given back to the sampler when a search goes on, so no database is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from mealrec.bench.cell import complete_settings, train_cell
from mealrec.bench.folder import open_folder
from mealrec.bench.quality import name_of
from mealrec.bench.rows import SHARED, row
from mealrec.evaluation.metrics import summarise
from mealrec.evaluation.ranking import rank_targets

Say = Callable[[str], None]
SEED = 100  # of the search and of its trials: none of the seeds that results are reported for


def run_tuning(
    folders: Sequence[Path], models: Sequence[str], *, trials: int, out: Path, cache: Path, jobs: int, say: Say = print
) -> dict[str, dict[str, Any]]:
    """Search every (folder, model) that `out` holds fewer than `trials` trials of. Returns the best settings by
    "dataset/model". One search is sequential; `jobs` searches run at a time."""
    for model in models:
        row(model)
    for folder in folders:
        open_folder(folder, cache, say=say)
    found: dict[str, list[dict[str, Any]]] = json.loads(out.read_text()) if out.is_file() else {}
    pairs = [(f, m) for f in folders for m in models if row(m).space]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        searches = {
            f"{f.name}/{m}": pool.submit(_search, str(f), m, found.get(f"{f.name}/{m}", []), trials, str(cache))
            for f, m in pairs
        }
        for name, search in searches.items():
            found[name] = search.result()
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            best = max(found[name], key=lambda t: t["valid_ndcg@10"])
            say(f"{name}: {len(found[name])} trials, best {best['valid_ndcg@10']:.4f} with {best['settings']}")
    return {name: max(kept, key=lambda t: t["valid_ndcg@10"])["settings"] for name, kept in found.items()}


def _search(folder: str, model: str, done: list[dict[str, Any]], trials: int, cache: str) -> list[dict[str, Any]]:
    import optuna

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: list(values) for name, values in row(model).space.items()}
    kinds: dict[str, Any] = {n: optuna.distributions.CategoricalDistribution(v) for n, v in space.items()}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED + len(done)))
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(params=trial["settings"], distributions=kinds, value=trial["valid_ndcg@10"])
        )
    kept = list(done)
    while len(kept) < trials:
        asked = study.ask(kinds)
        value = validation_of(Path(folder), model, asked.params, Path(cache))
        study.tell(asked, value)
        kept.append({"settings": asked.params, "valid_ndcg@10": value})
    return kept


def validation_of(folder: Path, model: str, settings: dict[str, Any], cache: Path) -> float:
    """Validation NDCG@10 of one trial; the test targets are not looked at."""
    data = open_folder(folder, cache, say=lambda line: None)
    whole = complete_settings(row(model), settings, name_of(str(folder)))
    ready = train_cell(row(model), data, whole, seed=SEED)
    history = int(whole.get("max_history", SHARED["max_history"]))
    ranked = rank_targets(ready.scorer, ready.data, "valid", max_history=history)
    return summarise(torch.from_numpy(ranked.rank), (10,))["ndcg@10"]
