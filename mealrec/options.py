"""Options that most commands share, and the configuration that they add up to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mealrec.config import ConfigError, RunConfig, load, override
from mealrec.presets import PRESETS, preset

Preset = Annotated[str, typer.Option("--preset", "-p", help=f"Named configuration: {', '.join(PRESETS)}.")]
Config = Annotated[Path | None, typer.Option("--config", help="JSON file of a configuration, instead of a preset.")]
LakeDir = Annotated[str | None, typer.Option("--lake", help="Root of the tables: a folder or an object-store URI.")]
Work = Annotated[str | None, typer.Option("--work", help="Local working folder; default <lake>/_work.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="section.key=value, repeatable, e.g. -s train.joint_epochs=5 -s seed=3."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout at the end.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


def configuration(
    name: str, file: Path | None, lake: str | None, work: str | None, settings: list[str] | None
) -> RunConfig:
    """Preset or file, then --lake and --work, then --set: validated before any work."""
    if file is not None:
        try:
            settled = load(json.loads(file.read_text()))
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigError(f"--config {file}: {error}") from None
    else:
        settled = preset(name)
    changes = [f"{key}={json.dumps(value)}" for key, value in (("lake", lake), ("work", work)) if value is not None]
    return override(settled, [*changes, *(settings or [])])
