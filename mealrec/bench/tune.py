"""`mealrec bench tune`: the same number of trials for every model, judged on validation alone (Optuna's TPE).

Trials are kept in one JSON file, which is all that a search knows: what is tried next is a function of the trials so far, so
a search that goes on ends as one that was never stopped, and no database is needed.
"""

from __future__ import annotations

import inspect
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mealrec.bench.cell import TRAINED, complete_settings, train_cell
from mealrec.bench.folder import open_folder
from mealrec.bench.quality import name_of
from mealrec.bench.rows import SHARED, Row, row
from mealrec.evaluation.metrics import summarise
from mealrec.evaluation.ranking import rank_targets

Say = Callable[[str], None]
Trial = dict[str, Any]  # settings, valid_ndcg@10, seconds
SEED = 100  # of the search and of its trials: none of the seeds that results are reported for
RANDOM_TRIALS = 4  # before TPE has seen enough to prefer anything
DRAWS = 100  # for settings that were not tried yet


class Search(NamedTuple):
    """A model on a dataset."""

    folder: Path
    model: str

    @property
    def name(self) -> str:
        return f"{name_of(str(self.folder))}/{self.model}"


def run_tuning(
    folders: Sequence[Path], models: Sequence[str], *, trials: int, out: Path, cache: Path, jobs: int, say: Say = print
) -> dict[str, Trial]:
    """Search every (folder, model) that `out` holds fewer than `trials` trials of; each trial is kept as soon as it is there.
    Returns the best trial by "dataset/model". One search is sequential; `jobs` searches run at a time, one thread each. The
    first trial is of the settings that the tables have untuned, so tuning never ends below them on validation."""
    for folder in folders:
        open_folder(folder, cache, say=say)
    found: dict[str, list[Trial]] = json.loads(out.read_text()) if out.is_file() else {}
    searches = [Search(folder, model) for folder in folders for model in models if row(model).space]
    waiting = deque(search for search in searches if len(found.setdefault(search.name, [])) < trials)
    running: dict[Future[Trial], Search] = {}
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        while waiting or running:
            while waiting and len(running) < jobs:
                search = waiting.popleft()
                asked = ask(search, found[search.name])
                if asked is None:
                    say(f"{search.name}: no settings are left that were not tried")
                    continue
                running[pool.submit(validated, search, asked, cache)] = search
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                search = running.pop(future)
                kept = found[search.name]
                kept.append(future.result())
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
                say(f"{search.name} [{len(kept)}/{trials}] {_shown(kept[-1])}")
                if len(kept) < trials:
                    waiting.appendleft(search)
    best = {search.name: max(found[search.name], key=lambda t: t["valid_ndcg@10"]) for search in searches}
    for name, trial in best.items():
        say(f"{name}: best of {len(found[name])} trials {_shown(trial)}")
    return best


def _shown(trial: Trial) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in trial["settings"].items())
    return f"{trial['valid_ndcg@10']:.4f} with {settings} ({trial['seconds']:.0f} s)"


def ask(search: Search, done: Sequence[Trial]) -> dict[str, Any] | None:
    """Settings to try after the trials `done`: the untuned ones first, then what the sampler gives that was not tried yet; None
    where it gives nothing new. Raises ValueError for a space that names what the row has no untuned value of."""
    import optuna

    space = row(search.model).space
    if not done:
        base = _untuned(row(search.model), name_of(str(search.folder)))
        unknown = [name for name in space if name not in base]
        if unknown:
            raise ValueError(f"{search.model}: no untuned value of {', '.join(unknown)}")
        return {name: base[name] for name in space}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds: dict[str, Any] = {n: optuna.distributions.CategoricalDistribution(list(v)) for n, v in space.items()}
    made = [
        optuna.trial.create_trial(params=t["settings"], distributions=kinds, value=t["valid_ndcg@10"])
        for t in done
        if all(t["settings"][name] in values for name, values in space.items())  # the untuned ones may lie beside it
    ]
    for draw in range(DRAWS):
        seed = SEED + 1000 * draw + len(done)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.add_trials(made)
        asked = dict(study.ask(kinds).params)
        if asked not in [trial["settings"] for trial in done]:
            return asked
    return None


def _untuned(of: Row, dataset: str) -> dict[str, Any]:
    """What a row runs with before it is tuned: where the tables say nothing, the defaults of its class."""
    asked = inspect.signature(TRAINED[of.name]).parameters if of.kind == "trained" else {}
    own = {name: p.default for name, p in asked.items() if p.default is not inspect.Parameter.empty}
    return own | complete_settings(of, {}, dataset)


def validated(search: Search, settings: Mapping[str, Any], cache: Path) -> Trial:
    """One trial: validation NDCG@10; the test targets are not looked at. Models that differ in TCD and NPD alone share the
    warm-up of equal settings."""
    torch.set_num_threads(1)
    began = time.monotonic()
    data = open_folder(search.folder, cache, say=lambda line: None)
    whole = complete_settings(row(search.model), settings, name_of(str(search.folder)))
    ready = train_cell(row(search.model), data, whole, seed=SEED, warm=cache / "warm")
    history = int(whole.get("max_history", SHARED["max_history"]))
    ranked = rank_targets(ready.scorer, ready.data, "valid", max_history=history)
    value = summarise(torch.from_numpy(ranked.rank), (10,))["ndcg@10"]
    return {"settings": dict(settings), "valid_ndcg@10": value, "seconds": round(time.monotonic() - began, 1)}
