"""`mealrec profile`: what the tables hold, and whether training may go on from it."""

from __future__ import annotations

from typing import Annotated

import typer

from mealrec import logs
from mealrec.options import AsJson, Config, LakeDir, Preset, Settings, Verbose, Work, configuration

Accept = Annotated[
    str | None,
    typer.Option(
        "--accept", metavar="WHY", help="Accept the tables as they are though they moved; the reason is kept."
    ),
]


def profile(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    accept: Accept = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """The gate before training: measure the tables and compare with the profile that was accepted last.

    Ends with status 1 and a table of what moved when something is past its bound (settings profile.*); the page has plots.

    Example: mealrec profile --preset demo

    Example: mealrec profile --preset demo --accept "the app counts loops since May"
    """
    from mealrec.console import print_stages, show_progress
    from mealrec.stages.profile import profile as stage

    settled = configuration(preset_name, config, lake, work, settings)
    if accept is not None and not accept.strip():
        raise ValueError("--accept: say why, for whoever reads it later")
    show_progress(verbose=verbose)
    with logs.inside("profile"):
        done = stage(settled, accept=accept)
    print_stages({"profile": done.model_dump(exclude={"stage"})}, as_json=as_json)
