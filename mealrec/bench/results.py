"""The result file: one JSON with every cell, and the ranks behind each cell in a folder beside it. Both are committed, so that
a seed or a row made on another day, by another machine, can be compared with what is there.

FILE.json          format, hardware, commands, cells, comparisons; keys sorted, floats rounded, so that diffs are readable
FILE.ranks/*.npz   ranks uint8 [V]: 1-based test rank of each viewer's target, viewers in the dataset's order; 21 stands for all
                   that is deeper than any metric looks (a byte a viewer, a fifth of one compressed)
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import torch

FORMAT = 1
DIGITS = 6
DEPTH = 20  # the deepest K of any metric
Ranks = npt.NDArray[np.integer[Any]]


class Key(NamedTuple):
    """What tells cells apart. dataset: its name, with @temporal behind it where that is the protocol; variant: a robustness
    condition such as "replace=0.3", empty for none."""

    dataset: str
    model: str
    seed: int
    variant: str = ""

    def file(self) -> str:
        name = "--".join([self.dataset, self.model, str(self.seed), *([self.variant] if self.variant else [])])
        return name.replace(":", "_").replace("/", "_") + ".npz"


@dataclass(frozen=True)
class Cell:
    """One trained and ranked model. metrics: {"valid", "test"} -> {"hr@10": ...}; slices: name -> {"viewers", "hr@10",
    "ndcg@10"}; beyond: coverage, gini, novelty, popularity_lift; extra: diagnostics; digest: of the settings; seconds: of
    training; commit: of the code, with + where it was changed; data: digest of the dataset, empty in older files."""

    dataset: str
    model: str
    seed: int
    variant: str
    protocol: str
    settings: dict[str, Any]
    digest: str
    metrics: dict[str, dict[str, float]]
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    beyond: dict[str, float] = field(default_factory=dict)
    extra: dict[str, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float = 0.0
    commit: str = ""
    finished: str = ""
    data: str = ""

    @property
    def key(self) -> Key:
        return Key(self.dataset, self.model, self.seed, self.variant)


class ResultsError(ValueError):
    """A result file is damaged, of another format, or lacks what is asked of it."""


class Results:
    """An opened result file. `put` re-reads it under a lock, so several processes may fill one file."""

    def __init__(self, path: Path, body: dict[str, Any]) -> None:
        self.path, self.body = path, body
        self.cells = {cell.key: cell for cell in (_cell(path, entry) for entry in body["cells"])}

    @classmethod
    def open(cls, path: Path) -> Results:
        """An absent file is an empty one. Raises ResultsError naming the file and what is wrong with it."""
        if not path.is_file():
            return cls(path, {"format": FORMAT, "cells": [], "comparisons": [], "commands": [], "hardware": {}})
        try:
            body = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ResultsError(f"{path} is no JSON: {error}") from None
        if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("cells"), list):
            raise ResultsError(f"{path}: not a result file of format {FORMAT} (it needs `format` and `cells`)")
        opened = cls(path, body)
        for name, kind in (("comparisons", list), ("commands", list), ("hardware", dict)):
            if not isinstance(body.get(name), kind):
                raise ResultsError(f"{path}: `{name}` is missing or not a {kind.__name__}")
        return opened

    def has(self, key: Key, digest: str, data: str = "") -> bool:
        """Whether the cell is there, made with these settings, with its ranks; where `data` is given, not of other data."""
        cell = self.cells.get(key)
        if cell is None or (data and cell.data not in ("", data)):
            return False
        return cell.digest == digest and self._ranks_file(key).is_file()

    def check_alike(self, cells: Iterable[Cell] | None = None) -> None:
        """Raises ResultsError where cells (None: all) of a dataset are of several protocols or of other data: their viewers are
        no pairs."""
        found: dict[tuple[str, str], dict[str, list[Cell]]] = {}
        for cell in self.cells.values() if cells is None else cells:
            for what, value in (("protocol", cell.protocol), ("data", cell.data)):
                if value:
                    found.setdefault((cell.dataset, what), {}).setdefault(value, []).append(cell)
        for (dataset, what), by_value in sorted(found.items()):
            if len(by_value) > 1:
                told = "; ".join(
                    f"{value}: {', '.join(sorted({f'{c.model} seed {c.seed}' for c in of}))}"
                    for value, of in by_value.items()
                )
                raise ResultsError(f"{self.path}: cells of {dataset} can't be compared, their {what} differs: {told}")

    def ranks(self, key: Key) -> Ranks:
        """Test ranks [V], those below DEPTH as DEPTH + 1. Raises ResultsError when they are not here or are no ranks."""
        path = self._ranks_file(key)
        if not path.is_file():
            raise ResultsError(f"{path} is not here: run the cell again")
        try:
            with np.load(path, allow_pickle=False) as held:
                found: Ranks = held["ranks"]
        except (KeyError, ValueError, BadZipFile) as error:
            raise ResultsError(f"{path} holds no ranks: {error}") from None
        return found.astype(np.int32)

    def put(self, cell: Cell, ranks: Ranks, command: str = "") -> None:
        """Write the ranks, then the file by rename: a kill between the two leaves a cell that counts as missing."""
        with self._locked():
            self._refresh()
            self._drop([cell.key])
            self._keep(cell.key, ranks)
            self.cells[cell.key] = cell
            if command and command not in self.body["commands"]:
                self.body["commands"].append(command)
            self.body["hardware"] = hardware()
            self._write()

    def absorb(self, other: Results) -> list[Key]:
        """Take over the cells of another file that have their ranks, replacing this file's, with its commands and hardware. The
        keys of those left out, which have none. Raises ResultsError, with nothing taken, where the file would hold cells of one
        dataset that are of several protocols or of other data."""
        taken = {key: cell for key, cell in other.cells.items() if other.has(key, cell.digest)}
        with self._locked():
            self._refresh()
            self.check_alike((self.cells | taken).values())
            self._drop(taken)
            for key in taken:
                self._keep(key, other.ranks(key))
            self.cells |= taken
            self.body["commands"] += [c for c in other.body["commands"] if c not in self.body["commands"]]
            self.body["hardware"] = other.body["hardware"]
            self._write()
        return sorted(set(other.cells) - set(taken))

    def _drop(self, keys: Iterable[Key]) -> None:
        """Cells that are replaced leave the file first, so that their figures never stand beside the new ranks."""
        if [self.cells.pop(key) for key in keys if key in self.cells]:
            self._write()

    def _keep(self, key: Key, ranks: Ranks) -> None:
        path = self._ranks_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, ranks=np.minimum(ranks, DEPTH + 1).astype(np.uint8))
        temporary.replace(path)

    def set_comparisons(self, comparisons: list[dict[str, Any]]) -> None:
        """Replace what was compared."""
        with self._locked():
            self._refresh()
            self.body["comparisons"] = comparisons
            self._write()

    def select(self, dataset: str, model: str, variant: str = "") -> list[Cell]:
        """Cells of a row, by seed."""
        own = [c for c in self.cells.values() if (c.dataset, c.model, c.variant) == (dataset, model, variant)]
        return sorted(own, key=lambda c: c.seed)

    def datasets(self) -> list[str]:
        return sorted({c.dataset for c in self.cells.values()})

    def models(self, dataset: str) -> list[str]:
        return sorted({c.model for c in self.cells.values() if c.dataset == dataset and not c.variant})

    def _ranks_file(self, key: Key) -> Path:
        return self.path.with_suffix(".ranks") / key.file()

    def _refresh(self) -> None:
        again = Results.open(self.path)
        self.body, self.cells = again.body, again.cells

    def _write(self) -> None:
        self.body["cells"] = [_rounded(asdict(self.cells[key])) for key in sorted(self.cells)]
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(self.body, indent=1, sort_keys=True) + "\n")
        temporary.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def hardware() -> dict[str, Any]:
    """What the figures were made on."""
    cpu = platform.processor() or platform.machine()
    names = Path("/proc/cpuinfo")
    if names.is_file():
        cpu = next(
            (x.split(":", 1)[1].strip() for x in names.read_text().splitlines() if x.startswith("model name")), cpu
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "accelerator": accelerator,
        "torch": torch.__version__.split("+")[0],
    }


def _cell(path: Path, entry: Any) -> Cell:
    """Raises ResultsError naming the file and the fields that are missing, unknown or of a wrong type."""
    if not isinstance(entry, dict):
        raise ResultsError(f"{path}: a cell that is no object but {entry!r}")
    known = {f.name: f for f in fields(Cell)}
    missing = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING} - set(entry)
    unknown = set(entry) - set(known)
    if missing or unknown:
        raise ResultsError(f"{path}: a cell with missing fields {sorted(missing)} and unknown fields {sorted(unknown)}")
    kinds = (("dataset", str), ("model", str), ("seed", int), ("variant", str), ("digest", str), ("metrics", dict))
    for name, kind in kinds:
        if not isinstance(entry[name], kind):
            raise ResultsError(f"{path}: a cell whose `{name}` is {entry[name]!r}, not a {kind.__name__}")
    return Cell(**entry)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value
