"""`mealrec vacuum`: what killed stages left behind."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mealrec.options import AsJson, Config, LakeDir, Preset, Settings, Verbose, Work, configuration


def vacuum(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    older_than: Annotated[float, typer.Option("--older-than", min=1.0, help="Hours since a file was written.")] = 168.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Delete the lake's files that no version of a table refers to: killed or failed stages left them. Every version stays.

    A table is left alone while a stage that writes it has not committed: it may be at work, or go on with what is there.

    Example: mealrec vacuum --preset demo --dry-run
    """
    from mealrec.console import show_progress
    from mealrec.lake import Lake
    from mealrec.stages.vacuum import vacuum as clean

    show_progress()
    settled = configuration(preset_name, config, lake, work, settings)
    found = clean(Lake(settled.lake, settled.work), orphan_hours=older_than, dry_run=dry_run)
    answer = {t: {"files": len(of), "bytes": sum(o.size for o in of)} for t, of in found.items()}
    if as_json:
        typer.echo(json.dumps({"vacuum": answer, "dry_run": dry_run}))
