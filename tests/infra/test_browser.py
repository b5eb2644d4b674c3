"""Where the page's tests get their browser from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROVIDE = Path(__file__).resolve().parents[2] / "infra" / "browser" / "provide.py"


def provide(**environment: str) -> subprocess.CompletedProcess[str]:
    """The script with a PATH of its own, so that neither a browser nor a package manager of this machine is found."""
    kept = {name: value for name, value in os.environ.items() if name != "MEALREC_CHROMIUM"}
    return subprocess.run(
        [sys.executable, str(PROVIDE)], env=kept | environment, capture_output=True, text=True, timeout=120, check=False
    )


def program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)
    return folder / name


def test_a_browser_that_is_there_is_used_and_nothing_installed(tmp_path: Path) -> None:
    on_path, named = program(tmp_path / "bin", "chromium"), program(tmp_path, "mine")
    assert provide(PATH=str(tmp_path / "bin")).stdout == f"Chromium: {on_path}\n"
    assert provide(PATH=str(tmp_path / "bin"), MEALREC_CHROMIUM=str(named)).stdout == f"Chromium: {named}\n"


def test_a_variable_that_names_no_program_is_the_users_mistake(tmp_path: Path) -> None:
    done = provide(PATH=str(tmp_path), MEALREC_CHROMIUM="/no/such/browser")
    assert done.returncode == 1 and "MEALREC_CHROMIUM=/no/such/browser: no program is there" in done.stderr


def test_where_nothing_can_be_installed_it_says_what_to_do(tmp_path: Path) -> None:
    """No package manager on PATH, and a download from an address where nobody is."""
    nowhere = {"PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9", "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path / "browsers")}
    done = provide(PATH=str(tmp_path), **nowhere)
    assert done.returncode == 1 and "no Chromium could be installed" in done.stderr, done.stderr
    assert "playwright install chromium" in done.stdout
