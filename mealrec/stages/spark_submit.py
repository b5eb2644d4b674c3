"""Run a Spark job in a process of its own through spark-submit, with a Java that fits."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import IO, Any

from mealrec import full_disk
from mealrec.config import RunConfig
from mealrec.lake import Lake
from mealrec.redaction import redact
from mealrec.stages.summary import EngineLost, StageError

JAVA_VERSIONS = (17, 21)
PROGRESS = "mealrec> "
LAST_LINES = 15
LOOPBACK = "127.0.0.1"
# of Java, which moves bytes and no more: its second compiler and a parallel collector cost more than they save
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
ROOT = Path(__file__).resolve().parents[2]
# a Spark that outlives a killed caller would commit behind the back of the next run: Linux ends it with us
DIES_WITH_US = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def submit(job: str, config: RunConfig, arguments: Sequence[str], log: logging.Logger) -> dict[str, Any]:
    """spark-submit spark_jobs/<job>.py and return the summary it writes.

    The job's progress lines go to `log`, everything else Spark says to <work>/logs/<job>.log. Raises StageError with the
    job's own message; EngineLost where that is of a disk or a file that may be there later, and, with the job's last lines,
    when it died without one. The whole process group ends with the caller.
    """
    logs = Lake(config.lake, config.work).folder("logs")
    with tempfile.TemporaryDirectory(prefix="mealrec-") as scratch:
        summary, settings = Path(scratch) / "summary.json", Path(scratch) / "config.json"
        with full_disk.named(scratch):
            settings.write_text(config.model_dump_json())
        command = [
            *_spark_submit(config),
            *_shipped(config.spark.master, Path(scratch)),
            *("--driver-java-options", QUICK_START),
            "--conf",
            f"spark.local.dir={scratch}",
            str(ROOT / "spark_jobs" / f"{job}.py"),
            *("--config", str(settings), "--summary", str(summary), *arguments),
        ]
        noise = logs / f"{job}.log"
        code, last = _run(command, _environment(config.spark.master), noise, log, config.spark.timeout_s)
        written = _read(summary)
    if "error" in written:
        raise (EngineLost if written["may_pass"] else StageError)(written["error"])
    if code != 0 or not written:
        raise EngineLost(f"Spark job {job} ended with status {code}; its last lines, also in {noise}:\n{last}")
    return written


def _read(summary: Path) -> dict[str, Any]:
    """Empty where there is none, or half of one: the job was killed, or its disk is full."""
    try:
        return dict(json.loads(summary.read_text()))
    except (OSError, ValueError):
        return {}


def find_java() -> Path:
    """A Java home of version 17 or 21: $JAVA_HOME, `java` on PATH, or the one that set-up provides in the environment.

    Raises StageError with what to do when there is none."""
    on_path = shutil.which("java")
    candidates = [
        Path(os.environ["JAVA_HOME"]) if os.environ.get("JAVA_HOME") else None,
        Path(on_path).resolve().parents[1] if on_path else None,
    ]
    for home in candidates:
        if home is not None and _java_version(home) in JAVA_VERSIONS:
            return home
    provided = Path(sys.prefix) / "java"
    if (provided / "bin" / "java").is_file():
        return provided
    raise StageError("Spark needs Java 17 or 21 and none was found: run `make setup`, or set JAVA_HOME to one")


def _java_version(home: Path) -> int | None:
    java = home / "bin" / "java"
    if not java.is_file():
        return None
    said = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found.group(1)) if found else None


def _spark_submit(config: RunConfig) -> list[str]:
    found = importlib.util.find_spec("pyspark")  # located, not imported: Spark lives in the child alone
    if found is None or not found.submodule_search_locations:
        raise StageError("pyspark is not installed: run `make setup`")
    home = Path(next(iter(found.submodule_search_locations)))
    options = ["--master", config.spark.master, "--driver-memory", config.spark.driver_memory]
    settings = ["spark.ui.showConsoleProgress=false"]
    if _is_local(config.spark.master):
        settings += [f"spark.driver.host={LOOPBACK}", f"spark.driver.bindAddress={LOOPBACK}"]
    elif config.spark.driver_host is not None:
        settings.append(f"spark.driver.host={config.spark.driver_host}")
    for setting in settings:
        options += ["--conf", setting]
    return [str(home / "bin" / "spark-submit"), *options]


def _is_local(master: str) -> bool:
    """Whether the tasks run in the driver's own process."""
    return master == "local" or master.startswith("local[")


def _shipped(master: str, scratch: Path) -> list[str]:
    """Options that give executors elsewhere our code; the libraries that it imports have to be there."""
    if _is_local(master):
        return []
    code = scratch / "code.zip"
    with full_disk.named(str(scratch)), zipfile.ZipFile(code, "w") as packed:
        for path in sorted(path for room in ("mealrec", "spark_jobs") for path in (ROOT / room).rglob("*.py")):
            packed.write(path, path.relative_to(ROOT))
    return ["--py-files", str(code)]


def _environment(master: str) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("SPARK_HOME", None)  # another Spark on this machine is not the one we pin
    environment |= {
        "JAVA_HOME": str(find_java()),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "TZ": "UTC",
    }
    if _is_local(master):
        environment["SPARK_LOCAL_IP"] = LOOPBACK
    return environment


def _run(
    command: list[str], environment: dict[str, str], noise: Path, log: logging.Logger, timeout_s: int
) -> tuple[int, str]:
    """Exit status and the last lines of what was said."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    with noise.open("wb", buffering=0) as kept:
        process = subprocess.Popen(
            [sys.executable, "-c", DIES_WITH_US, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # spark-submit passes the Python driver's stderr on as its own stdout
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        # in the caller's context: a logging handler may want to know whose run this is
        following = (_follow, process, kept, last, log)
        reader = threading.Thread(target=copy_context().run, args=following, daemon=True)
        reader.start()
        deadline = time.monotonic() + timeout_s
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise StageError(f"the Spark job took longer than spark.timeout_s={timeout_s}") from None
        finally:
            _end(process)
            reader.join(timeout=max(1.0, min(5.0, deadline - time.monotonic())))
    return code, "\n".join(last)


def _follow(process: subprocess.Popen[str], kept: IO[bytes], last: deque[str], log: logging.Logger) -> None:
    """To the end, whatever becomes of the log: a job whose words nobody takes stands still."""
    assert process.stdout is not None
    with process.stdout as said:
        for line in said:
            if line.startswith(PROGRESS):
                log.info(line.removeprefix(PROGRESS).rstrip())
                continue
            last.append(redact(line).rstrip())
            with suppress(OSError):  # no room on its disk
                kept.write(f"{last[-1]}\n".encode())


def _end(process: subprocess.Popen[str]) -> None:
    """Nothing of the job outlives the stage: Java and the Python workers are in the same group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
