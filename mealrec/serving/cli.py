"""`mealrec serve`. Imports are made where they are needed, so that `--help` is quick."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from mealrec.options import Config, LakeDir, Preset, Settings, Verbose, Work, configuration


def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind; off loopback a token is required.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Processes that hold the model.")] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="One process without Ray Serve: the quickest answers.")
    ] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster to use; default: a local one.")] = None,
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    verbose: Verbose = False,
) -> None:
    """Answer requests over HTTP from the champion (Ray Serve), until Ctrl-C or SIGTERM.

    Example: mealrec serve --preset demo --port 8080
    """
    from mealrec.console import show_progress
    from mealrec.serving.server import serve as serve_until_told

    given = {"serve.host": host, "serve.port": port, "serve.replicas": replicas, "ray.address": address}
    given["serve.direct"] = direct or None
    changes = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    settled = configuration(preset_name, config, lake, work, [*(settings or []), *changes])
    show_progress(verbose=verbose)
    serve_until_told(settled, typer.echo)
