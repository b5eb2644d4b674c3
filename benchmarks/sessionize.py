"""The sessionize stage beside DuckDB and Polars on generated rows: same files, same work, two cores, one after the other.

    python benchmarks/sessionize.py --rows 10000000 --format parquet
    python benchmarks/sessionize.py --rows 10000000 --format parquet --even     # without the viewer that has 1 % of the rows

Each engine is a process of its own; its wall time is that of the whole process, start-up included (for mealrec: the command,
and the spark-submit that it starts). Peak memory is that of the process and all its children together (proportional set size).
All that finish must agree on rows and sessions, or nothing is reported; a peer that needs more than `--memory` of the machine's
memory, or fails, gets a row that says so. Ends with one row each; `--out` adds the run to a result file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from event_log import write_log

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware

HERE = Path(__file__).parent
ENGINES = ("mealrec", "duckdb", "polars")
FORMATS = ("parquet", "jsonl", "csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--format", choices=FORMATS, default="parquet")
    parser.add_argument("--even", action="store_true", help="without the viewer that has 1 %% of all rows")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"some of {','.join(ENGINES)}")
    parser.add_argument("--memory", type=float, default=0.85, help="share of the memory at which an engine is ended")
    parser.add_argument("--scratch", type=Path, help="folder for the log and the outputs; default: a temporary one")
    parser.add_argument("--out", type=Path, help="result file that this run is added to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="sessionize-") as scratch:
        landing = Path(scratch) / "landing"
        write_log(landing, arguments.rows, arguments.format, even=arguments.even)
        print(f"{arguments.rows} rows of {arguments.format} written", file=sys.stderr, flush=True)
        found = [_measured(name, landing, Path(scratch), arguments) for name in arguments.engines.split(",")]
    answers = {row["engine"]: (row["rows_out"], row["sessions"]) for row in found if "failed" not in row}
    if len(set(answers.values())) != 1:
        sys.exit(f"the engines do not agree on (rows, sessions): {answers}")
    if arguments.out:
        _keep(arguments, found)
    for row in found:
        rate = f"failed: {row['failed']}" if "failed" in row else f"{arguments.rows / row['seconds']:12,.0f} rows/s"
        print(f"{row['engine']:8} {row['seconds']:8.1f} s {row['peak_mb']:8.0f} MB {rate}")


def table(runs: list[dict[str, Any]]) -> str:
    """The README's: a row an engine and run, in order of format and rows."""
    lines = ["| rows | | wall | processor | peak memory |", "|---|---|---:|---:|---:|"]
    for run in sorted(runs, key=_what):
        name = f"{run['rows'] // 1_000_000} million, {run['input']}" + (", no heavy viewer" if run.get("even") else "")
        for row in run["engines"]:
            wall = f"{row['failed']} after {row['seconds']:.0f} s" if "failed" in row else f"{row['seconds']:.1f} s"
            memory = f"{row['peak_mb'] / 1000:.1f} GB"
            lines.append(f"| {name} | {row['engine']} | {wall} | {row['processor_s']:,.0f} s | {memory} |")
            name = ""
    return "\n".join(lines)


def _what(run: dict[str, Any]) -> tuple[int, int, bool]:
    """Which run it is: of a format, so many rows, and whether without the heavy viewer."""
    return FORMATS.index(run["input"]), run["rows"], run.get("even", False)


def _measured(name: str, landing: Path, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    out = scratch / name
    if name == "mealrec":
        command = [sys.executable, "-m", "mealrec.cli", "stage", "sessionize", "--lake", str(out), "--json"]
        settings = {
            "source.directory": str(landing),
            "spark.master": "local[2]",
            "sessionize.bot_events_a_minute": "null",  # the peers don't look for machines
        }
        command += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    else:
        command = [sys.executable, str(HERE / "sessionize_peers.py"), name, str(landing), str(out), arguments.format]
    load = psutil.getloadavg()[0]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as answer, tempfile.TemporaryFile("w+") as errors:
        process = psutil.Popen(command, stdout=answer, stderr=errors, text=True)
        peak, cpu = _watch(process, arguments.memory * psutil.virtual_memory().total)
        seconds = time.monotonic() - began
        said, complaint = (file.seek(0) or file.read() for file in (answer, errors))
    print(f"{name}: {seconds:.1f} s, {cpu:.0f} s of processor", file=sys.stderr, flush=True)
    shutil.rmtree(out, ignore_errors=True)  # one that failed may have made nothing
    figures = {"seconds": round(seconds, 2), "processor_s": round(cpu, 1), "peak_mb": round(peak), "load_before": load}
    if process.returncode:
        print(f"{name} ended with status {process.returncode}:\n{complaint[-3000:]}", file=sys.stderr, flush=True)
        reason = "out of memory" if process.returncode == -signal.SIGKILL else f"status {process.returncode}"
        return {"engine": name, **figures, "failed": reason}
    return {"engine": name, **figures, **_answer(name, json.loads(said.splitlines()[-1]))}


def _answer(name: str, body: dict[str, Any]) -> dict[str, int]:
    if name != "mealrec":
        return body
    stage = body["stages"]["sessionize"]
    return {"rows_out": stage["rows_out"], "sessions": stage["details"]["sessions"]}


def _watch(process: psutil.Popen, limit: float) -> tuple[float, float]:
    """Peak MB and processor seconds of the process and everything below it, until it ends or has more than `limit` bytes: then
    it is killed, before the machine kills something else."""
    peak, cpu = 0.0, {}
    while process.poll() is None:
        total = 0
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.Error:
            break
        for one in family:
            try:
                total += _pss(one.pid)
                times = one.cpu_times()
                cpu[one.pid] = times.user + times.system
            except (psutil.Error, OSError):
                continue  # it has just ended
        peak = max(peak, total / 2**20)
        if total > limit:
            for one in reversed(family):
                one.kill()
        time.sleep(0.3)
    process.wait()
    return peak, sum(cpu.values())


def _pss(pid: int) -> int:
    """Proportional set size in bytes; pages that processes share are counted once in all."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _keep(arguments: argparse.Namespace, found: list[dict[str, Any]]) -> None:
    held = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"format": 1, "runs": []}
    command = f"python benchmarks/sessionize.py --rows {arguments.rows} --format {arguments.format}"
    run = {
        "command": command + (" --even" if arguments.even else ""),
        "rows": arguments.rows,
        "input": arguments.format,
        "even": arguments.even,
        "hardware": hardware(),
        "commit": commit_of(),
        "date": datetime.now(UTC).date().isoformat(),
        "engines": found,
    }
    held["runs"] = [r for r in held["runs"] if _what(r) != _what(run)] + [run]
    arguments.out.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
