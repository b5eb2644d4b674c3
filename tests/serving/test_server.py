"""`mealrec serve` before it starts anything: the address and the token."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mealrec.config import ConfigError, ServeConfig
from mealrec.serving.folders import own_folder
from mealrec.serving.server import TOKEN_VARIABLE, token_digest

TOKEN = "canary-8f1d2c3b4a59"


def serve(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mealrec.cli", "serve", "--preset", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**{k: v for k, v in os.environ.items() if k != TOKEN_VARIABLE}, **environment},
        check=False,
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_binding_wide_without_a_token_is_refused_with_status_2(host: str, tmp_path: Path) -> None:
    done = serve("--host", host, "--lake", str(tmp_path))
    assert done.returncode == 2 and TOKEN_VARIABLE in done.stderr and host in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "_work").exists(), "nothing was started"


@pytest.mark.parametrize("token", ["short", "ü" * 20])
def test_a_token_that_is_no_token_is_refused_and_not_repeated(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    done = serve("--set", f"serve.token_file={tmp_path / 'token'}", "--lake", str(tmp_path))
    assert done.returncode == 2 and "at least 16 ASCII characters" in done.stderr and token not in done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = serve("--port", str(port), "--lake", str(tmp_path), **{TOKEN_VARIABLE: TOKEN})
    assert done.returncode == 2 and f"serve.port={port}" in done.stderr
    assert TOKEN not in done.stderr + done.stdout


def test_one_process_is_asked_for_no_cluster(tmp_path: Path) -> None:
    done = serve("--direct", "--address", "10.0.0.7:6379", "--port", "18099", "--lake", str(tmp_path))
    assert done.returncode == 2 and "leave ray.address=10.0.0.7:6379 out" in done.stderr


def test_the_token_comes_from_the_file_before_the_environment_and_leaves_as_a_digest(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    wide = ServeConfig(host="0.0.0.0", token_file=str(tmp_path / "token"))
    digest = hashlib.sha256(TOKEN.encode()).digest()
    assert token_digest(wide, {TOKEN_VARIABLE: "another-token-entirely"}) == digest
    assert token_digest(ServeConfig(), {TOKEN_VARIABLE: TOKEN}) == digest
    assert token_digest(ServeConfig(), {}) is None
    with pytest.raises(ConfigError, match="nowhere"):
        token_digest(ServeConfig(token_file=str(tmp_path / "nowhere")), {})
    (tmp_path / "token").write_text("")
    with pytest.raises(ConfigError, match="at least 16"):
        token_digest(wide, {})


def test_the_folder_of_a_process_that_was_killed_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    own = own_folder(tmp_path)
    code = f"from pathlib import Path; from mealrec.serving.folders import own_folder\n\
print(own_folder(Path({str(tmp_path)!r})), flush=True); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    left = Path(killed.stdout.strip())
    assert left.is_dir() and left != own
    third = own_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own, third])
