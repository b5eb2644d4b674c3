"""`mealrec bench quality`: train and rank every (dataset, model, seed) that the result file does not hold yet.

Each cell is a process of its own with one torch thread, `jobs` at a time; a killed run goes on with the cells that are
missing. Training and ranking need torch and numpy alone; a dataset folder that was packed before is opened as it is.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mealrec.bench.cell import Ready, complete_settings, train_cell
from mealrec.bench.chosen import chosen
from mealrec.bench.conditions import POORER, SHARES, TRAINED_ON, corrupted, poorer
from mealrec.bench.diagnostics import diagnose
from mealrec.bench.folder import data_digest, open_folder
from mealrec.bench.noisy import noisy_training
from mealrec.bench.results import Cell, Key, Results
from mealrec.bench.rows import CROSSED, ROWS, SHARED, row
from mealrec.data.packed import Packed
from mealrec.data.split import Protocol
from mealrec.evaluation.beyond import spread
from mealrec.evaluation.metrics import summarise
from mealrec.evaluation.ranking import Ranked, rank_targets
from mealrec.evaluation.slices import slices

Say = Callable[[str], None]
KS = (5, 10, 20)
ROBUST = (
    "sasrec",
    "sasrec+content",
    "sasrec+content+backwards",
    "sasrec+content+augment",
    "mealrec",
    "mealrec:no-npd",
    "mealrec:state",
    "mealrec:augment",
    *(f"{backbone}+{parts}" for backbone in CROSSED for parts in ("content+backwards", "mealrec")),
)
CONDITION_SEED = 1


@dataclass(frozen=True)
class Task:
    """A cell to make, as plain values so that it travels to another process."""

    folder: str
    cache: str
    out: str
    model: str
    seed: int
    protocol: Protocol
    device: str
    command: str
    noise: float = 0.0  # share of the training interactions that are replaced (R3)
    data: str = ""  # digest of the dataset

    @property
    def variant(self) -> str:
        return f"{TRAINED_ON}{self.noise}" if self.noise else ""

    @property
    def key(self) -> Key:
        name = name_of(self.folder)
        dataset = name if self.protocol == "leave-one-out" else f"{name}@{self.protocol}"
        return Key(dataset, self.model, self.seed, self.variant)


def run_quality(
    folders: Sequence[Path],
    models: Sequence[str],
    *,
    seeds: Sequence[int],
    out: Path,
    cache: Path,
    protocol: Protocol = "leave-one-out",
    jobs: int = 1,
    device: str = "cpu",
    noise: float = 0.0,
    command: str = "",
    say: Say = print,
) -> Results:
    """Fill `out`. Rows that are only computed get one seed. noise: share of the training interactions that are replaced; such
    cells stand beside the clean ones as a variant. Raises ValueError for an unknown model, SourceError for a folder
    that cannot be read, ResultsError where `out` has cells of other data that would stay beside the new ones, and whatever a
    cell raised, after the others in flight have ended."""
    for name in models:
        row(name)
    tasks = []
    for folder in folders:
        # packed once, before the processes ask for it
        data = data_digest(open_folder(folder, cache, protocol=protocol, say=say))
        # a model's seeds run side by side and models one after another, so that a warm-up is there when the next needs it
        for name in models:
            for seed in seeds[:1] if ROWS[name].kind == "counts" else seeds:
                asked = (str(folder), str(cache), str(out), name, seed, protocol, device, command, noise, data)
                tasks.append(Task(*asked))
    results = Results.open(out)
    missing = [t for t in tasks if not results.has(t.key, digest_of(t), t.data)]
    made = [_planned(t) for t in missing]
    replaced = {_trained(cell) for cell in made}
    kept = [cell for cell in results.cells.values() if _trained(cell) not in replaced]
    results.check_alike([*kept, *made])
    say(f"{len(tasks)} cells, {len(tasks) - len(missing)} there already, {jobs} at a time")
    _run_all(missing, jobs, say)
    return Results.open(out)


def _run_all(tasks: list[Task], jobs: int, say: Say) -> None:
    began = time.monotonic()
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = {pool.submit(run_cell, task) for task in tasks}
        done_count = 0
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_EXCEPTION, timeout=1.0)
            for future in done:
                try:
                    line = future.result()
                except BaseException:
                    for other in waiting:
                        other.cancel()
                    raise
                done_count += 1
                left = (time.monotonic() - began) / done_count * (len(tasks) - done_count)
                say(f"[{done_count}/{len(tasks)}] {line} (about {left / 60:.0f} min left)")


def run_cell(task: Task) -> str:
    """Make one cell, with its robustness conditions where the row has them, and put it into the result file."""
    if row(task.model).kind == "counts":
        task = replace(task, device="cpu")  # computed there, whatever the others are trained on
    if task.device == "cpu":
        torch.set_num_threads(1)
    data = open_folder(Path(task.folder), Path(task.cache), protocol=task.protocol, say=lambda line: None)
    settings = settings_of(task)
    known = noisy_training(data, task.noise, CONDITION_SEED) if task.noise else data
    warm = Path(task.cache) / "warm" / task.variant
    ready = train_cell(row(task.model), known, settings, seed=task.seed, warm=warm, device=task.device)
    if task.noise:  # judged by what the viewers really watched
        ready = replace(ready, data=data)
    history = int(settings.get("max_history", SHARED["max_history"]))
    results = Results.open(Path(task.out))
    test = rank_targets(ready.scorer, ready.data, "test", max_history=history, exposure=True, device=task.device)
    cell = _cell(task, settings, ready, test, data, history)
    if task.model in ROBUST and not task.noise:
        for variant, ranked in _under_conditions(ready, history, task.device):
            results.put(_variant(cell, variant, ranked, data), ranked.rank.astype(np.int32))
    results.put(cell, test.rank.astype(np.int32), task.command)
    found = cell.metrics["test"]
    return (
        f"{cell.dataset} {cell.model} seed {cell.seed}: HR@10 {found['hr@10']:.4f} NDCG@10 {found['ndcg@10']:.4f} "
        f"({cell.epochs} epochs, {cell.seconds:.0f} s)"
    )


def name_of(folder: str) -> str:
    """A dataset's name: its folder's, or what a packed folder says of its source."""
    meta = Path(folder) / "meta.json"
    source = json.loads(meta.read_text()).get("source", {}) if meta.is_file() else {}
    return str(source.get("name", Path(folder).name))


def settings_of(task: Task) -> dict[str, Any]:
    name = name_of(task.folder)
    return complete_settings(row(task.model), chosen(name, task.model), name)


def digest_of(task: Task) -> str:
    """Of everything that decides a cell's figures besides the code."""
    facts = [name_of(task.folder), task.model, task.seed, task.protocol, settings_of(task)]
    text = json.dumps([*facts, task.noise] if task.noise else facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _planned(task: Task) -> Cell:
    """The cell that a task is going to make, without its figures."""
    return Cell(*task.key, task.protocol, {}, digest_of(task), {}, data=task.data)


def _trained(cell: Cell) -> tuple[str, str, int, str]:
    """What cells that are made together share: conditions at test time are of the model that was trained for the clean cell."""
    return cell.dataset, cell.model, cell.seed, cell.variant if cell.variant.startswith(TRAINED_ON) else ""


def commit_of() -> str:
    """The code's commit, with + where files differ from it; empty outside a git checkout."""
    here = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (here / ".git").exists():
        return ""
    head, changed = (
        subprocess.run([git, *words], cwd=here, capture_output=True, text=True, check=True)
        for words in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "mealrec"])
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cell(task: Task, settings: dict[str, Any], ready: Ready, test: Ranked, data: Packed, history: int) -> Cell:
    valid = rank_targets(ready.scorer, ready.data, "valid", max_history=history, device=task.device)
    return Cell(
        dataset=task.key.dataset,
        model=task.model,
        seed=task.seed,
        variant=task.variant,
        protocol=task.protocol,
        settings=settings,
        digest=digest_of(task),
        metrics={name: summarise(torch.from_numpy(r.rank), KS) for name, r in (("valid", valid), ("test", test))},
        slices=_slices(data, test),
        beyond=spread(test.shown, data.content.train_count().numpy()),
        extra=diagnose(ready, history) if ready.model is not None else {},
        epochs=ready.epochs,
        seconds=ready.seconds,
        commit=commit_of(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        data=task.data,
    )


def _variant(cell: Cell, variant: str, ranked: Ranked, data: Packed) -> Cell:
    metrics = {"test": summarise(torch.from_numpy(ranked.rank), KS)}
    shown = spread(ranked.shown, data.content.train_count().numpy())
    return replace(cell, variant=variant, metrics=metrics, slices=_slices(data, ranked), beyond=shown, extra={})


def _slices(data: Packed, ranked: Ranked) -> dict[str, dict[str, float]]:
    out = {}
    for name, chosen_rows in slices(data, ranked.viewer, ranked.target).items():
        found = summarise(torch.from_numpy(ranked.rank[chosen_rows]), (10,))
        out[name] = {"viewers": float(chosen_rows.sum()), "hr@10": found["hr@10"], "ndcg@10": found["ndcg@10"]}
    return out


def _under_conditions(ready: Ready, history: int, device: str) -> list[tuple[str, Ranked]]:
    """Ranks with disturbed histories (R1) and, for a row that reads content, with poorer content (R2)."""
    data, popularity = ready.data, ready.data.content.train_count().float()
    scorers = {
        f"{kind}={share}": corrupted(ready.scorer, kind, share, popularity, CONDITION_SEED, history)
        for kind, share in [*(("replace", share) for share in SHARES), ("drop", 0.3), ("insert", 0.3)]
    }
    if ready.rescore is not None:
        for kind, level in POORER:
            scorers[f"{kind}={level}"] = ready.rescore(poorer(data.content.gather, kind, level, CONDITION_SEED))
    return [
        (name, rank_targets(scorer, data, "test", max_history=history, exposure=True, device=device))
        for name, scorer in scorers.items()
    ]
