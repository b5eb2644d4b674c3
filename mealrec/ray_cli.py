"""`mealrec ray ...`: stages as jobs on a Ray cluster."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, NoReturn

import typer

from mealrec.options import AsJson, Config, LakeDir, Preset, Settings, Verbose, Work, configuration
from mealrec.ray_jobs import JobState, Needs, cancel, connect, follow, state, submit
from mealrec.stages import STAGES, stage_named

ray = typer.Typer(help="Stages as jobs on a Ray cluster that is already there.", no_args_is_help=True)

Address = Annotated[
    str,
    typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, http(s)://host:port."),
]
Job = Annotated[str, typer.Argument(help="The job, as `mealrec ray submit` printed it.")]
DASHBOARD = "http://127.0.0.1:8265"


@ray.command("submit")
def submit_command(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    address: Address = DASHBOARD,
    needs: Annotated[
        Needs,
        typer.Option(
            "--runtime-env",
            help="image: the nodes have code and packages; code: send this code; lock: and install the lock file's packages.",
        ),
    ] = "image",
    wait: Annotated[bool, typer.Option(help="Follow the log to the end; --no-wait prints the job and returns.")] = True,
    preset_name: Preset = "production",
    config: Config = None,
    lake: LakeDir = None,
    work: Work = None,
    settings: Settings = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Run a stage on the cluster: log on stderr, the job's exit status as ours. Ctrl-C stops the job.

    Local folders must be ones that every node sees; relative ones are taken from here.

    Example: mealrec ray submit extract --preset demo --lake /shared/lake
    """
    stage_named(stage)  # a mistake is told before the cluster is asked
    settled = configuration(preset_name, config, lake, work, settings)
    client = connect(address)
    job = submit(client, stage, settled, needs)
    if not wait:
        typer.echo(json.dumps({"job": job}) if as_json else job)
        return
    _say(f"job {job} at {address}\n")
    try:
        over = follow(client, job, _say)
    except KeyboardInterrupt:
        _say(f"\nstopping job {job}\n")
        cancel(client, job)
        raise
    _end(over, as_json)


@ray.command("follow")
def follow_command(job: Job, address: Address = DASHBOARD, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """The log of a job on stderr until it is over, and its exit status as ours. Ctrl-C leaves the job running.

    Example: mealrec ray follow raysubmit_4LamXRuQpYdSMg7J
    """
    _end(follow(connect(address), job, _say), as_json)


@ray.command("status")
def status_command(job: Job, address: Address = DASHBOARD, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """What a job does, on stdout.

    Example: mealrec ray status raysubmit_4LamXRuQpYdSMg7J
    """
    _show(state(connect(address), job), as_json)


@ray.command("cancel")
def cancel_command(job: Job, address: Address = DASHBOARD, as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Stop a job and wait until it is over. What it had finished is found by the next run of the same stage.

    Example: mealrec ray cancel raysubmit_4LamXRuQpYdSMg7J
    """
    _show(cancel(connect(address), job), as_json)


def _say(text: str) -> None:
    typer.echo(text, nl=False, err=True)


def _show(now: JobState, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(now)))
        return
    seconds = "" if now.seconds is None else f" after {now.seconds:.0f} s"
    status = "" if now.exit_code is None else f", exit status {now.exit_code}"
    typer.echo(f"{now.job}: {now.status}{seconds}{status}")
    if now.message:
        typer.echo(now.message)


def _end(over: JobState, as_json: bool) -> NoReturn:
    _show(over, as_json)
    raise typer.Exit(over.our_exit_code)
