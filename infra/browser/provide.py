"""Give the machine a Chromium for the page's tests when it has none: `make browser`.

The one that MEALREC_CHROMIUM names, one on PATH and one that Playwright has downloaded are left to be used. Otherwise it is
installed by the system's package manager where we are root on a Debian or Ubuntu, else downloaded by Playwright. Exit status 1,
with what to do, when neither works.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "MEALREC_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BY_APT = (
    ["apt-get", "update"],
    ["apt-get", "install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
)
BY_PLAYWRIGHT = ([sys.executable, "-m", "playwright", "install", "chromium"],)


def installed() -> Path | None:
    """A browser that is there. Raises FileNotFoundError when MEALREC_CHROMIUM names none."""
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"{VARIABLE}={named}: no program is there")
        return Path(named)
    on_path = next((found for name in NAMES if (found := shutil.which(name))), None)
    return Path(on_path) if on_path else downloaded()


def downloaded() -> Path | None:
    """Playwright's own browser, if it is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = Path(playwright.chromium.executable_path)
    return path if path.is_file() else None


def provide() -> Path | None:
    """Install a browser in the first way that works; None when none did."""
    by_apt = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None
    for commands in (BY_APT, BY_PLAYWRIGHT) if by_apt else (BY_PLAYWRIGHT,):
        print(f"no Chromium on this machine: {' '.join(commands[-1])}", flush=True)
        quiet = {"stdout": subprocess.DEVNULL, "env": dict(os.environ) | {"DEBIAN_FRONTEND": "noninteractive"}}
        if all(subprocess.run(command, check=False, **quiet).returncode == 0 for command in commands):  # type: ignore[call-overload]
            return installed()
    return None


def main() -> None:
    try:
        found = installed() or provide()
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    if found is None:
        sys.exit(f"error: no Chromium could be installed; install one and put it on PATH or into {VARIABLE}")
    print(f"Chromium: {found}")


if __name__ == "__main__":
    main()
