"""`mealrec drift`: what moved since the champion was trained."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mealrec import logs
from mealrec.options import AsJson, Config, LakeDir, Preset, Settings, Verbose, Work, configuration

Fail = Annotated[bool, typer.Option("--fail", help="End with status 1 when a quantity is in alarm.")]


def drift(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    fail: Fail = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare events, features, scores and durations with those the champion was trained on.

    Example: mealrec drift --preset demo
    """
    from mealrec.console import show_progress
    from mealrec.lake import Lake
    from mealrec.stages.drift import drift as stage
    from mealrec.stages.drift import read

    settled = configuration(preset_name, config, lake, work, settings)
    show_progress(verbose=verbose)
    with logs.inside("drift"):
        stage(settled)
    result = read(Lake(settled.lake, settled.work))
    assert result is not None, "the stage writes its result"
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(result)
    if fail and result["state"] == "alarm":
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"drift from champion {result['champion'] or '(none yet)'}", title_justify="left")
    table.add_column("quantity", no_wrap=True)
    table.add_column("by")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("warn, alarm", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("moved")
    for q in result["quantities"]:
        bounds = f"{q['warn']:g}, {q['alarm']:g}"
        table.add_row(f"{q['group']} {q['name']}", q["measure"], f"{q['value']:.3f}", bounds, q["state"], q["moved"])
    Console().print(table)
    typer.echo(f"state: {result['state']}")
