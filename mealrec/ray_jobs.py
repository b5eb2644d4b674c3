"""Stages as jobs on a Ray cluster that is already there: submit, follow, status, cancel (the Ray Jobs API).

The configuration travels as a file in the job's working folder. No value of it passes through the shell that Ray starts a
job with, and none shows in the cluster's list of jobs. The token is Ray's own affair: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH
or ~/.ray/auth_token, never read or shown here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mealrec
from mealrec.cluster import before_ray_is_imported
from mealrec.config import RunConfig
from mealrec.stages import stage_named

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# what of the job's needs the cluster lacks: nothing; the code; the code and the packages of the lock file
Needs = Literal["image", "code", "lock"]
CONFIG_FILE = "config.json"
LOCK_FILE = "constraints.txt"
POLL_S = 0.5
PATIENCE_S = 30.0  # without an answer from the cluster
STOP_S = 30.0  # Ray itself kills a job 3 s after asking it to stop


class RefusedError(ValueError):
    """The cluster refused the token, or does not know the job; the message says what to set."""


class LostError(RuntimeError):
    """The cluster does not answer."""


@dataclass(frozen=True)
class JobState:
    """A job as the cluster sees it. status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""

    job: str
    status: str
    message: str
    exit_code: int | None
    seconds: float | None

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def our_exit_code(self) -> int:
        """What a command that waited for this job ends with: its 0, 1 or 2; anything else that is no success is 1."""
        if self.status == "SUCCEEDED":
            return 0
        return 2 if self.exit_code == 2 else 1


def submit(client: JobSubmissionClient, stage: str, config: RunConfig, needs: Needs = "image") -> str:
    """Start `stage` as a job; returns the job's name. Raises ValueError for an unknown stage, before anything is sent."""
    stage_named(stage)
    # a job's own folder may vanish under it: a node that is lost takes it along where nodes share a machine
    command = shlex.join(["exec", "python", "-m", "mealrec.cli", "stage", stage])
    entrypoint = f'config="$PWD/{CONFIG_FILE}" && cd / && {command} --config "$config"'
    with tempfile.TemporaryDirectory() as folder, _told_plainly(client):
        Path(folder, CONFIG_FILE).write_text(settled_for(config, Path.cwd()).model_dump_json(indent=1))
        job: str = client.submit_job(
            entrypoint=entrypoint, runtime_env=runtime_env(folder, needs), metadata={"mealrec.stage": stage}
        )
    return job


def settled_for(config: RunConfig, here: Path) -> RunConfig:
    """The configuration as the job needs it: local paths absolute (a job's own folder is thrown away), Ray its own cluster."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(here / path)

    source = config.source
    directory = source.directory or ("./landing" if source.kind == "landing" else None)
    uri = config.registry.tracking_uri
    if uri is not None and uri.startswith("sqlite:///"):
        uri = f"sqlite:///{here / uri.removeprefix('sqlite:///')}"
    return config.model_copy(
        update={
            "lake": absolute(config.lake),
            "work": absolute(config.work) if config.work else None,
            "source": source.model_copy(
                update={
                    "directory": absolute(directory) if directory else None,
                    "clips": absolute(source.clips) if source.clips else None,
                }
            ),
            "ray": config.ray.model_copy(update={"address": None}),
            "registry": config.registry.model_copy(update={"tracking_uri": uri}),
        }
    )


def runtime_env(folder: str, needs: Needs) -> dict[str, Any]:
    """Ray's runtime environment of a job whose working folder is `folder`. Raises FileNotFoundError without a lock file."""
    environment: dict[str, Any] = {"working_dir": folder}
    package = Path(mealrec.__file__).parent
    if needs in ("code", "lock"):
        environment["py_modules"] = [str(package), str(package.parent / "spark_jobs")]
    if needs == "lock":
        # the lock is the whole working set, so nothing has to be resolved; Ray's own version is the cluster's
        lines = (package.parent / LOCK_FILE).read_text().splitlines()
        pinned = [line for line in lines if line.strip() and not line.startswith(("#", "ray=="))]
        environment["pip"] = {
            "packages": pinned,
            "pip_install_options": ["--no-deps", "--disable-pip-version-check"],
            "pip_check": False,
        }
    return environment


def connect(address: str) -> JobSubmissionClient:
    """A client of the dashboard at `address`. Raises RefusedError for a wrong or missing token, LostError when none answers."""
    before_ray_is_imported()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if path and not os.environ.get("RAY_AUTH_TOKEN") and not os.access(path, os.R_OK):
        raise RefusedError(f"RAY_AUTH_TOKEN_PATH={path}: no file that can be read")  # Ray would abort the whole process
    # Ray lets these variables win over the address that it is given
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)  # uploads and closed streams are no news
    with _told_plainly(address):
        return JobSubmissionClient(address)


def state(client: JobSubmissionClient, job: str) -> JobState:
    """Raises RefusedError, naming the jobs that there are, for an unknown one."""
    with _told_plainly(client):
        try:
            found = client.get_job_info(job)
        except RuntimeError as error:
            if "404" not in str(error):
                raise
            known = [j.submission_id for j in client.list_jobs() if j.submission_id]
            raise RefusedError(f"no job {job!r} at {_address(client)}; there: {', '.join(known) or 'none'}") from None
    seconds = (found.end_time or time.time() * 1000) / 1000 - found.start_time / 1000 if found.start_time else None
    # of a command that failed the message repeats the log
    is_repeated = found.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR"
    message = "" if is_repeated else found.message or ""
    return JobState(job, found.status.value, message, found.driver_exit_code, seconds)


def follow(client: JobSubmissionClient, job: str, say: Callable[[str], None]) -> JobState:
    """Pass the job's log to `say` as it comes, until the job is over. Raises LostError after PATIENCE_S without an answer."""
    import aiohttp

    state(client, job)  # an unknown job is told at once
    log, told = _Log(say), ""
    while True:
        try:
            asyncio.run(log.pass_on(client, job))
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # the stream broke off; the job need not have
            if (line := f"the log broke off: {error}\n") != told:
                say(line)
                told = line
        now = _patiently(lambda: state(client, job))
        if now.is_over:
            return now
        time.sleep(POLL_S)


def _patiently(ask: Callable[[], JobState]) -> JobState:
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return ask()
        except LostError:
            if time.monotonic() > until:
                raise
            time.sleep(POLL_S)


def cancel(client: JobSubmissionClient, job: str) -> JobState:
    """Stop the job and wait until it is over; a job that is over stays what it is. Raises LostError after STOP_S."""
    now = state(client, job)
    if now.is_over:
        return now
    with _told_plainly(client):
        client.stop_job(job)
    until = time.monotonic() + STOP_S
    while not (now := state(client, job)).is_over:
        if time.monotonic() > until:
            raise LostError(f"job {job} is still {now.status} {STOP_S:.0f} s after it was asked to stop")
        time.sleep(POLL_S)
    return now


class _Log:
    """How much of a job's log was said, over several streams of it: each begins at the log's beginning."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.shown = say, 0

    async def pass_on(self, client: JobSubmissionClient, job: str) -> None:
        came = 0
        async for text in client.tail_job_logs(job):
            self.say(text[max(0, self.shown - came) :])
            came += len(text)
            self.shown = max(self.shown, came)


@contextmanager
def _told_plainly(client: JobSubmissionClient | str) -> Iterator[None]:
    """Ray's errors of connection and token as ours."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError:
        raise RefusedError(
            f"{_address(client)} refused the token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file, to that of the "
            "cluster's head (default: ~/.ray/auth_token)"
        ) from None
    except (ConnectionError, requests.RequestException) as error:
        raise LostError(f"no Ray dashboard answers at {_address(client)}: {type(error).__name__}") from None


def _address(client: JobSubmissionClient | str) -> str:
    return client if isinstance(client, str) else str(client.get_address())
