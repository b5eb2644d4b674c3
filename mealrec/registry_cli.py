"""`mealrec rollback` and `mealrec promotions`: what was promoted, and the way back."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from mealrec.options import AsJson, Config, LakeDir, Preset, Settings, Verbose, Work, configuration


def rollback(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    to: Annotated[
        str | None, typer.Option("--to", help="This version instead; the gate must have passed it once.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Back to the version that was champion before.

    Example: mealrec rollback --preset demo
    """
    from mealrec.stages.promote import rollback as back

    version = back(configuration(preset_name, config, lake, work, settings), to=to)
    found = {"version": version.version, "aliases": list(version.aliases)}
    typer.echo(json.dumps(found, indent=None if as_json else 1))


def promotions(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Who promoted, refused or rolled back which version, when and why: the audit trail, oldest first.

    Example: mealrec promotions --preset demo
    """
    from mealrec.console import print_trail
    from mealrec.stages.promote import promotions as trail

    entries = [asdict(entry) for entry in trail(configuration(preset_name, config, lake, work, settings))]
    if as_json:
        typer.echo(json.dumps({"promotions": entries}))
    else:
        print_trail(entries)
