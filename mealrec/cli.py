"""`mealrec ...`: one command a stage, plus simulate, ingest, run, demo. Imports are made where they are needed, so that
`--help` is quick."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from mealrec import logs
from mealrec.bench.cli import bench
from mealrec.config import RunConfig
from mealrec.drift_cli import drift
from mealrec.ingest_cli import ingest
from mealrec.options import AsJson, Config, LakeDir, Preset, Settings, Verbose, Work, configuration
from mealrec.presets import PRESETS, preset
from mealrec.profile_cli import profile
from mealrec.ray_cli import ray
from mealrec.redaction import redact
from mealrec.registry_cli import promotions, rollback
from mealrec.serving.cli import serve
from mealrec.stages import STAGES, stage_named
from mealrec.vacuum_cli import vacuum

app = typer.Typer(
    help="Micro-video recommendation as a pipeline: Spark sessions, Ray features and training, MLflow promotion.\n\n"
    "Start with `mealrec demo`. Your own logs and videos: `mealrec run --preset production --set source.directory=DIR`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(ingest, name="ingest")
app.add_typer(bench, name="bench")
app.command()(profile)
app.command()(drift)
app.command()(rollback)
app.command()(promotions)
app.command()(vacuum)
app.command()(serve)
app.add_typer(ray, name="ray")


def main() -> None:
    """Entry point: exit status 0 done, 2 the user's input or configuration is wrong, 1 anything else, 130 interrupted."""
    verbose = "--verbose" in sys.argv or "-v" in sys.argv
    try:
        sys.exit(app(standalone_mode=False))  # the status of a typer.Exit, None for a command that just ends
    except typer.TyperException as error:  # an unknown command or option
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    except KeyboardInterrupt:
        _stop("interrupted; run the same command again to go on where it stopped", 130)
    except Exception as error:
        if verbose:
            typer.echo(redact(traceback.format_exc()), err=True)
        _stop(redact(f"error: {error}"), 2 if isinstance(error, ValueError) else 1)


@app.callback()
def everywhere(
    log_json: Annotated[
        str | None,
        typer.Option("--log-json", envvar=logs.VARIABLE, help="Log as JSON lines to this file; - is stderr."),
    ] = None,
) -> None:
    logs.install(log_json)


@app.command()
def demo(
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """The whole pipeline on a simulated platform, in ./var/demo. Run it again: everything is up to date.

    Example: mealrec demo --set source.videos=60 --lake /tmp/small
    """
    _run(configuration("demo", None, lake, work, settings), as_json, verbose)


@app.command()
def run(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """The flow, without a server: every stage that is not up to date, then a table and the path of summary.json.

    Example: MEALREC_DATA=./data mealrec run --preset bili-food
    """
    _run(configuration(preset_name, config, lake, work, settings), as_json, verbose)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Landing folder to write.")],
    videos: Annotated[int, typer.Option(min=8, help="Videos.")] = 120,
    viewers: Annotated[int, typer.Option(min=8, help="Viewers.")] = 400,
    days: Annotated[int, typer.Option(min=2, help="Days of logs.")] = 14,
    seed: Annotated[int, typer.Option(min=0, help="Everything follows from it.")] = 7,
    clips: Annotated[Path | None, typer.Option(help="Cut topic segments from this folder of real clips.")] = None,
    more_days: Annotated[int, typer.Option(min=0, help="Add days to a platform that is there.")] = 0,
    as_json: AsJson = False,
) -> None:
    """A small platform with known truth: rendered videos, raw daily logs with planted faults, truth.json.

    Example: mealrec simulate ./landing --videos 60 --viewers 200 --days 7
    """
    from mealrec.console import show_progress
    from mealrec.sources.simulated import simulate as build

    show_progress()
    truth = build(out, videos=videos, viewers=viewers, days=days, seed=seed, clips=clips, more_days=more_days)
    _answer({"rows": truth.rows, "quarantine": truth.quarantine, "absent": truth.absent, "out": str(out)}, as_json)


def _stage_command(name: str, does: str, *stages: str) -> None:
    """Add a command that runs `stages` (default: the stage of its own name)."""

    def command(
        preset_name: Preset = "production",
        config: Config = None,
        lake: LakeDir = None,
        work: Work = None,
        settings: Settings = None,
        as_json: AsJson = False,
        verbose: Verbose = False,
    ) -> None:
        _stages(list(stages) or [name], configuration(preset_name, config, lake, work, settings), as_json)

    command.__doc__ = f"{does}\n\nExample: mealrec {name} --preset demo"
    app.command(name)(command)


_stage_command("sessionize", "Raw event files to interactions, items and sequences (Spark).", "sessionize", "sequences")


@app.command()
def extract(
    videos: Annotated[
        Path | None,
        typer.Option(help="Take every file of this folder instead of a catalogue, into a lake of its own."),
    ] = None,
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Decode and encode the catalogue's videos: each ends in features, or in quarantine with a reason (Ray).

    Example: mealrec extract --videos ./clips --lake ./var/clips
    """
    from mealrec.console import print_stages, show_progress
    from mealrec.lake import Lake
    from mealrec.sources.folder import catalogue_of_folder
    from mealrec.stages.extract import extract as stage

    settled = configuration(preset_name, config, lake, work, settings)
    show_progress()
    landing = None
    if videos is not None:
        held = Lake(settled.lake, settled.work)
        places = [held.work, Path(held.root)] if held.is_local else [held.work]
        landing = catalogue_of_folder(videos, held.folder("folders"), leave_out=places)
    with logs.inside("extract"):
        done = stage(settled, landing=landing)
    print_stages({"extract": done.model_dump(exclude={"stage"})}, as_json=as_json)


_stage_command("train", "Train the model on Ray Train workers; resumes a run that was killed.")
_stage_command("evaluate", "Rank every test target among all videos, beside the baselines; write the report page.")
_stage_command("promote", "Register the evaluated model, ask the gate, move the aliases.")
_stage_command("recommend", "Top K of every viewer from the champion to the recommendations table.")


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Any single stage by its name; what `mealrec ray submit` runs on the cluster.

    Example: mealrec stage sequences --preset demo
    """
    stage_named(name)
    _stages([name], configuration(preset_name, config, lake, work, settings), as_json)


@app.command()
def report(
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
) -> None:
    """Print the path of the evaluated model's report page.

    Example: mealrec report --preset demo
    """
    from mealrec.stages.evaluate import evaluate

    _begin()
    summary = evaluate(configuration(preset_name, config, lake, work, settings))
    typer.echo(summary.details["report"])


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset as JSON, a start for --config.")] = None,
) -> None:
    """List the presets, or print one.

    Example: mealrec presets demo > my.json
    """
    if name is not None:
        typer.echo(preset(name).model_dump_json(indent=1))
        return
    for key, build in PRESETS.items():
        typer.echo(f"{key:15} {(build.__doc__ or '').strip().splitlines()[0]}")


def _run(config: RunConfig, as_json: bool, verbose: bool) -> None:
    from mealrec.console import print_summary, show_progress
    from mealrec.lake import Lake

    show_progress(verbose=verbose)
    lake = Lake(config.lake, config.work)
    _prefect_in_process(lake.folder("prefect"))
    from flows.pipeline import pipeline
    from flows.summary import SUMMARY

    summary = pipeline(config)
    path = (Path(lake.root) if lake.is_local else lake.work) / SUMMARY
    if as_json:
        typer.echo(json.dumps(summary))
        return
    print_summary(summary)
    typer.echo(str(path))


def _prefect_in_process(home: Path) -> None:
    """Prefect without a server: its state lies beside the run, it reports nothing, and logs of ours are shown once."""
    os.environ.pop("PREFECT_API_URL", None)
    os.environ |= {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }


def _stages(names: list[str], config: RunConfig, as_json: bool) -> None:
    from mealrec.console import print_stages, show_progress

    show_progress()
    done = {}
    for name in names:
        with logs.inside(name):
            done[name] = stage_named(name)(config).model_dump(exclude={"stage"})
    print_stages(done, as_json=as_json)


def _begin() -> None:
    from mealrec.console import show_progress

    show_progress()


def _answer(data: dict[str, Any], as_json: bool) -> None:
    typer.echo(json.dumps(data, indent=None if as_json else 1))


def _stop(message: str, status: int) -> None:
    typer.echo(message, err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
