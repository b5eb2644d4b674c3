"""What a night costs beside making everything anew: nine days, then the tenth, then all ten into an empty lake.

    python benchmarks/night.py --rows 10000000

The log is that of sessionize.py (a tenth of the rows a day, Parquet). Each run is a command of its own, Spark's start included.
`read` are the event rows that a stage took from files; `sequences` are made of all interactions every time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from event_log import write_log

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware

RESULT = Path(__file__).parent / "results" / "night.json"
LAST_DAY = "events-2026-01-14-*"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--scratch", type=Path, help="folder for the log and the lakes; default: a temporary one")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="night-") as folder:
        runs = nights(Path(folder), arguments.rows)
    found = {
        "rows": arguments.rows,
        "runs": runs,
        "command": " ".join(["python", "benchmarks/night.py", *sys.argv[1:]]),
        "commit": commit_of(),
        "hardware": hardware(),
        "load_before": round(load, 2),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(runs))


def nights(folder: Path, rows: int) -> dict[str, dict[str, Any]]:
    landing, held_back = folder / "landing", folder / "tomorrow"
    write_log(landing, rows, "parquet")
    held_back.mkdir()
    for file in sorted((landing / "events").glob(LAST_DAY)):
        file.rename(held_back / file.name)
    found = {"nine days": both(landing, folder / "nightly")}
    for file in held_back.iterdir():
        file.rename(landing / "events" / file.name)
    found["the tenth day"] = both(landing, folder / "nightly")
    found["ten days at once"] = both(landing, folder / "anew")
    last, anew = found["the tenth day"], found["ten days at once"]
    if any(last[stage]["rows_out"] != anew[stage]["rows_out"] for stage in last):
        sys.exit(f"a night does not end where all days at once do: {found}")
    return found


def both(landing: Path, lake: Path) -> dict[str, Any]:
    return {stage: run(stage, landing, lake) for stage in ("sessionize", "sequences")}


def run(stage: str, landing: Path, lake: Path) -> dict[str, Any]:
    """Raises CalledProcessError where the stage fails."""
    command = [sys.executable, "-m", "mealrec.cli", "stage", stage, "--lake", str(lake), "--json"]
    for setting in (f"source.directory={landing}", "spark.master=local[2]"):
        command += ["--set", setting]
    began = time.monotonic()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = round(time.monotonic() - began, 1)
    body = json.loads(said.splitlines()[-1])["stages"][stage]
    read = body["details"].get("read", {}).get("rows", body["rows_in"])
    row = {"seconds": seconds, "read": int(read), "rows_out": body["rows_out"]}
    print(stage, row, file=sys.stderr, flush=True)
    return row


def table(runs: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| run | sessionize, s | event rows read | sequences, s | interactions read |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, run in runs.items():
        cells = [f"{run[stage][key]:,}" for stage in ("sessionize", "sequences") for key in ("seconds", "read")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
