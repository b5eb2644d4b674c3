"""Canaries: secrets given the ways a team gives them turn up nowhere, also where things fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.canaries import CANARY, SECRETS, found_in
from tests.integration.servers import START, free_port

NOBODY = f"http://127.0.0.1:{free_port()}"


def mealrec(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "AWS_ACCESS_KEY_ID": "key", "MLFLOW_TRACKING_USERNAME": "me"}
    return subprocess.run(
        [sys.executable, "-m", "mealrec.cli", "--log-json", str(folder / "run.jsonl"), *arguments],
        cwd=folder,
        env=dict(os.environ) | quick | SECRETS | more,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@pytest.mark.parametrize(
    "setting",
    [
        f"registry.tracking_uri=postgresql://me:{CANARY}@127.0.0.1:1/mlflow",
        f"registry.tracking_uri=http://me:{CANARY}@127.0.0.1:1",
        f"lake=s3://key:{CANARY}@bucket/lake",
        f"ray.address=ray://me:{CANARY}@127.0.0.1:1",
        f"source.clips=https://me:{CANARY}@host/clips",
    ],
)
def test_a_password_in_a_setting_is_refused_without_being_repeated(setting: str, tmp_path: Path) -> None:
    by_option = mealrec(tmp_path, "run", "--preset", "demo", "--set", setting, "--verbose")
    key, _, value = setting.partition("=")
    section, _, name = key.partition(".")
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({section: {name: value}} if name else {section: value}))
    by_file = mealrec(tmp_path, "train", "--config", str(config))
    config.unlink()
    for done in (by_option, by_file):
        assert done.returncode == 2 and "must not hold a password" in done.stderr
        assert CANARY not in done.stdout + done.stderr
    assert found_in(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ([f"registry.tracking_uri={NOBODY}"], {}),
        (["lake=s3://bucket/lake", "work=work"], {"AWS_ENDPOINT_URL": NOBODY, "AWS_ALLOW_HTTP": "true"}),
    ],
)
def test_a_server_that_does_not_answer_makes_an_error_without_secrets(
    settings: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = mealrec(tmp_path, "recommend", "--preset", "demo", "--verbose", "--set", "lake=lake", *chosen, **environment)
    assert done.returncode != 0 and "Traceback" in done.stderr
    assert CANARY not in done.stdout + done.stderr
    assert found_in(tmp_path) == []


@pytest.mark.parametrize("script", ["prefect_server", "mlflow_server"])
def test_a_start_script_that_refuses_does_not_repeat_the_dsn(script: str, tmp_path: Path) -> None:
    dsn = f"postgresql://me:{CANARY}@127.0.0.1:1/x"
    flag = "--database" if script == "prefect_server" else "--backend"
    done = subprocess.run(
        [sys.executable, str(START / f"{script}.py"), "--host", "0.0.0.0", flag, dsn],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2 and "there is no authentication" in done.stderr
    assert CANARY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "script", sorted(p.stem for p in START.glob("*.py") if 'add_argument("--host"' in p.read_text())
)
def test_a_script_that_starts_a_server_listens_on_loopback_unless_told(script: str) -> None:
    assert 'add_argument("--host", default=LOOPBACK' in (START / f"{script}.py").read_text()


def test_postgres_refuses_a_port_without_a_password(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PGPASSWORD"}
    done = subprocess.run(
        [
            sys.executable,
            str(START / "postgres.py"),
            *("--data", str(tmp_path / "pg"), "--host", "0.0.0.0", "--port", "1"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2 and "PGPASSWORD" in done.stderr, done.stderr
