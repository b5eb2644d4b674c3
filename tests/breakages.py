"""Deliberate breakages of the data plane, one at a time: a test has to notice each, or it proves nothing.

    python -m tests.breakages [WORD ...] [--list] [--trusting]      # make broken

An entry of tests/broken/*.toml says what the product promises (`claim`), the text of one `file` that keeps the promise (`old`),
what breaks it (`new`) and the `tests` that have to fail then. They run on a copy of the tracked files; WORDs choose entries by
their list, claim, file or tests. First the chosen tests have to pass with nothing broken, unless --trusting. Exit status 1
unless every breakage was caught. Cost: about an hour on one core for all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
LISTS = Path(__file__).parent / "broken"
LIMIT_S, ALL_LIMIT_S, TO_END_S = 600, 3600, 20
FAILED, PASSED, HUNG = 1, 0, -1  # pytest's exit statuses, and none within the limit
LAST_LINES = 15
LIBRARIES = (
    "av",
    "deltalake",
    "hypothesis.strategies",
    "jinja2",
    "pandas",
    "PIL.Image",
    "pydantic",
    "safetensors",
    "scipy.stats",
    "torch",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.json",
    "pyarrow.parquet",
)


@dataclass(frozen=True)
class Breakage:
    """`hangs`: broken in this way a run never ends, so the time limit counts as caught. `needs`: the environment variable
    without which its tests are skipped."""

    part: str
    claim: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    hangs: bool = False
    needs: str = ""

    def applied(self, text: str) -> str:
        """Raises ValueError where `old` is not in the text exactly once."""
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.part}: {self.claim}: `old` is {times} times in {self.file}, not once")
        return text.replace(self.old, self.new)

    def is_meant(self, words: Sequence[str]) -> bool:
        about = " ".join((f"{self.part}:", self.claim, self.file, *self.tests)).lower()
        return all(word.lower() in about for word in words)


def catalogue(folder: Path = LISTS) -> list[Breakage]:
    """Every entry of every list. Raises TypeError for one that lacks a field or has another."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["breakage"]:
            found.append(Breakage(path.stem, **entry | {"tests": tuple(entry["tests"])}))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="part of a list's name, claim, file or test; all have to fit"
    )
    parser.add_argument("--list", action="store_true", help="say what there is and break nothing")
    parser.add_argument("--trusting", action="store_true", help="take it that the tests pass with nothing broken")
    arguments = parser.parse_args()
    meant = [one for one in catalogue() if one.is_meant(arguments.words)]
    chosen = [one for one in meant if not one.needs or os.environ.get(one.needs)]
    for one in meant:
        if arguments.list or one not in chosen:
            print(
                f"{'' if one in chosen else f'left out, {one.needs} is not set: '}{one.part}: {one.claim} ({one.file})"
            )
    if arguments.list:
        return 0
    warm()
    with tempfile.TemporaryDirectory(prefix="mealrec-broken-") as folder:
        copy = copied(Path(folder) / "copy")
        if not arguments.trusting and chosen:
            status, said = run_tests(copy, sorted({test for one in chosen for test in one.tests}), ALL_LIMIT_S)
            if status != PASSED:
                print(f"with nothing broken the tests do not pass:\n{said}")
                return 1
        caught = sum([is_caught(one, copy) for one in chosen])
    print(f"{caught} of {len(chosen)} caught")
    return 0 if caught == len(chosen) else 1


def copied(to: Path) -> Path:
    """The tracked files as they are now; what is deleted is left out."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    # wherever a process starts, it must be the copy that it imports
    asked = "import flows, mealrec, spark_jobs; print(flows.__file__, mealrec.__file__, spark_jobs.__file__)"
    found = subprocess.run([sys.executable, "-c", asked], cwd="/", env=_environment(to), capture_output=True, text=True)
    assert found.returncode == 0 and all(path.startswith(str(to)) for path in found.stdout.split()), found
    return to


def is_caught(one: Breakage, copy: Path) -> bool:
    """Break, test, mend; says what became of it."""
    path, began = copy / one.file, time.monotonic()
    whole = path.read_text(encoding="utf-8")
    path.write_text(one.applied(whole), encoding="utf-8")
    try:
        status, said = run_tests(copy, one.tests, LIMIT_S)
    finally:
        path.write_text(whole, encoding="utf-8")
    caught = status == FAILED or (status == HUNG and one.hangs)
    verdict = "caught" if caught else "NOT CAUGHT" if status in (PASSED, HUNG) else "error"
    print(f"{verdict:10}  {time.monotonic() - began:5.0f} s  {one.part}: {one.claim} ({one.file})", flush=True)
    if verdict == "error":
        print(said, flush=True)
    return caught


def run_tests(copy: Path, tests: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Exit status (HUNG past the limit) and the last lines. Nothing of it keeps running."""
    with tempfile.TemporaryFile("w+") as said:  # no pipe: an orphan could hold it open for ever
        process = get_context("fork").Process(target=_become_pytest, args=(copy, tests, said.fileno()))
        process.start()
        assert process.pid is not None
        try:
            process.join(limit_s)
            hung = process.is_alive()
            if hung:
                os.kill(process.pid, signal.SIGINT)  # fixtures stop what they have started
                process.join(TO_END_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        said.seek(0)
        status = HUNG if hung or process.exitcode is None else process.exitcode
        return status, "\n".join(said.read().splitlines()[-LAST_LINES:])


def _become_pytest(copy: Path, tests: Sequence[str], said: int) -> None:
    """`python -m pytest` in the copy, in a process that has the libraries already: they take longer than most tests."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it would be ignored
    for stream in (1, 2):
        os.dup2(said, stream)
    os.chdir(copy)
    os.environ |= _environment(copy) | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
    sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout", *tests]))


def warm() -> None:
    """Import what is not ours and takes long; not Ray, which reads its settings then. A failure need not be made smaller."""
    for library in LIBRARIES:
        import_module(library)
    settings.register_profile("broken", phases=[Phase.explicit, Phase.generate])
    settings.load_profile("broken")


def _environment(copy: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(copy)}


if __name__ == "__main__":
    sys.exit(main())
