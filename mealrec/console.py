"""What a person sees in a terminal: progress lines on stderr, tables at the end."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from mealrec import logs

STDERR = Console(stderr=True)


def show_progress(*, verbose: bool = False) -> None:
    """Lines of the `mealrec` loggers go to stderr for a person, unless they go there as JSON lines."""
    handler = RichHandler(
        console=STDERR, show_path=False, show_level=verbose, log_time_format="%H:%M:%S", omit_repeated_times=False
    )
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger(logs.LOGGER)
    others = [held for held in logger.handlers if not isinstance(held, RichHandler)]
    logger.handlers = others if os.environ.get(logs.VARIABLE) == logs.STDERR else [handler, *others]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


def print_stages(stages: dict[str, Any], *, as_json: bool) -> None:
    """What stages did, on stdout: a table and each stage's details, or one JSON object."""
    if as_json:
        sys.stdout.write(json.dumps({"stages": stages}) + "\n")
        return
    Console(file=sys.stdout).print(stage_table(stages))
    for name, stage in stages.items():
        sys.stdout.write(f"{name}: {json.dumps(stage['details'])}\n")


def print_summary(summary: dict[str, Any]) -> None:
    """Stages, metrics side by side, the model and what the truth says, on stdout."""
    console = Console(file=sys.stdout)
    console.print(stage_table(summary["stages"]))
    console.print(_metrics(summary["metrics"]["test"]))
    model = summary["model"]
    verdict = "passed" if model["gate"]["passed"] else "refused"
    aliases = ", ".join(model["aliases"]) or "none"
    console.print(
        f"model {model['name']} version {model['version']}, alias {aliases}; gate {verdict}:", highlight=False
    )
    for reason in model["gate"]["reasons"]:
        console.print(f"  - {reason}", highlight=False, markup=False)
    if summary["salience"]:
        found = summary["salience"]
        console.print(
            f"salience: AUC {found['auc']:.3f} of frame weights against the truth over {found['videos']} videos, "
            f"{found['viewer_auc']:.3f} as viewers see their histories (uniform weights: 0.500)",
            highlight=False,
        )
    if "truth" in summary:
        same = "equal" if summary["truth"]["equal"] else "DIFFER FROM"
        console.print(f"quarantine counts {same} the simulator's truth", highlight=False)
    console.print(f"report: {summary['report']}", highlight=False, soft_wrap=True)
    console.print(f"done in {summary['seconds']:.0f} s", highlight=False)


def stage_table(stages: dict[str, Any]) -> Table:
    table = Table(title="stages", title_justify="left")
    for name, justify in (("stage", "left"), ("rows in", "right"), ("rows out", "right"), ("quarantined", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("seconds", justify="right")
    table.add_column("state")
    for name, stage in stages.items():
        rejected = "\n".join(f"{count} {reason}" for reason, count in stage["quarantined"].items())
        state = "up to date" if stage["skipped"] else "done"
        table.add_row(
            name, f"{stage['rows_in']:,}", f"{stage['rows_out']:,}", rejected, f"{stage['seconds']:.1f}", state
        )
    return table


def _metrics(systems: dict[str, dict[str, float]]) -> Table:
    table = Table(title="test metrics (full ranking, history masked)", title_justify="left")
    table.add_column("system")
    names = [name for name in next(iter(systems.values())) if name.endswith("@10")]  # the rest is in report and JSON
    for name in names:
        table.add_column(name.upper(), justify="right")
    for system, values in systems.items():
        table.add_row(system, *[f"{values[name]:.4f}" for name in names])
    return table


def print_trail(entries: list[dict[str, Any]]) -> None:
    """Promotions, refusals and rollbacks, oldest first, on stdout."""
    table = Table(title="promotions", title_justify="left")
    for name in ("when", "who", "action", "version", "from", "why"):
        table.add_column(name)
    for entry in entries:
        reasons = "\n".join(entry["reasons"])
        table.add_row(
            entry["when"], entry["who"], entry["action"], entry["version"], entry["from_version"] or "-", reasons
        )
    Console(file=sys.stdout).print(table, markup=False)
