"""What a second day costs: the demo's pipeline on a simulated platform, one day more of it, the pipeline again.

    python benchmarks/second_day.py

Everything happens in a temporary folder through the command line, as a user would do it: `demo`, `simulate --more-days 1`,
`demo`, and `demo` once more with nothing to do. `processed` is what a stage really took into its hands: event rows read from
files (sessionize), videos decoded (extract), rows in elsewhere, nothing where the stage was up to date. Training begins from
the beginning, or as the champion with `--set train.warm_start=true`: its row says which, and `quality` what came of it.
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

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.presets import preset

RESULT = Path(__file__).parent / "results" / "second_day.json"
RUNS = ("first", "second", "again")


def cli(*words: str) -> float:
    """Seconds of one command, the start of Python included. Raises CalledProcessError where it fails."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "mealrec.cli", *words], check=True, stdout=sys.stderr)
    return round(time.monotonic() - began, 1)


def measure(folder: Path, settings: list[str]) -> dict[str, Any]:
    """Each run's seconds and stages; `simulate_s` is the making of the day, which no platform has to pay."""
    source, seed = preset("demo").source, preset("demo").seed
    run = ["demo", "--lake", str(folder), *(word for setting in settings for word in ("--set", setting))]
    size = {"videos": source.videos, "viewers": source.viewers, "days": source.days, "seed": seed}
    size |= {k.partition(".")[2]: int(v) for k, v in (s.split("=") for s in settings) if k.startswith("source.")}
    words = [word for name, value in size.items() for word in (f"--{name}", str(value))]
    landing = folder / "_work" / "landing"
    found: dict[str, Any] = {"platform": size, "first": read(folder, cli(*run))}
    simulate_s = cli("simulate", str(landing), *words, "--more-days", "1")
    found["second"] = read(folder, cli(*run))
    return found | {"again": read(folder, cli(*run)), "simulate_s": simulate_s}


def read(folder: Path, wall_s: float) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    stages = {
        name: {
            "seconds": 0.0 if stage["skipped"] else round(stage["seconds"], 1),
            "rows_in": stage["rows_in"],
            "rows_out": stage["rows_out"],
            "processed": 0 if stage["skipped"] else processed(stage),
        }
        for name, stage in summary["stages"].items()
    }
    return {"wall_s": wall_s, "stages": stages, "quality": quality(summary["stages"])}


def quality(stages: dict[str, Any]) -> dict[str, Any]:
    """Of the newest model: epochs, what it began as, NDCG@10 on the test targets of the day, salience AUC."""
    trained, evaluated = stages["train"]["details"], stages["evaluate"]["details"]
    return {
        "epochs": trained["epochs"],
        "began": trained["began"],
        "ndcg@10": round(evaluated["metrics"]["test"]["mealrec"]["ndcg@10"], 4),
        "salience_auc": round(evaluated["salience"]["auc"], 3),
    }


def processed(stage: dict[str, Any]) -> int:
    details = stage["details"]
    if "read" in details:
        return int(details["read"]["rows"])
    return int(details.get("done_now", stage["rows_in"]))


def table(found: dict[str, Any]) -> str:
    lines = ["| stage | first day, s | processed | second day, s | processed | of rows | again, s |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for name in found["first"]["stages"]:
        first, second, again = (found[run]["stages"][name] for run in RUNS)
        shown = f"{name}, {beginning(found['second'])}" if name == "train" else name
        lines.append(
            f"| {shown} | {first['seconds']} | {first['processed']:,} | {second['seconds']} | {second['processed']:,} "
            f"| {second['rows_in']:,} | {again['seconds']} |"
        )
    walls = [found[run]["wall_s"] for run in RUNS]
    return "\n".join([*lines, f"| the whole command | {walls[0]} | | {walls[1]} | | | {walls[2]} |"])


def beginning(run: dict[str, Any]) -> str:
    return "from the beginning" if "afresh" in run["quality"]["began"] else "the second day from the champion"


def said(found: dict[str, Any]) -> str:
    stages = found["second"]["stages"]
    events, videos = stages["sessionize"], stages["extract"]
    before, after = (found[run]["quality"]["ndcg@10"] for run in RUNS[:2])
    return (
        f"second day: {events['processed']:,} of {events['rows_in']:,} event rows read, {videos['processed']} of "
        f"{videos['rows_in']} videos decoded; {found['second']['wall_s']} s, of which {stages['train']['seconds']} s train "
        f"{beginning(found['second'])}; NDCG@10 {before}, then {after}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="as for demo")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="mealrec-second-day-") as folder:
        found = measure(Path(folder), arguments.settings)
    found |= {
        "command": " ".join(["python", "benchmarks/second_day.py", *sys.argv[1:]]),
        "commit": commit_of(),
        "hardware": hardware(),
        "load_before": round(load, 2),  # programs that were at work on the cores before it began
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    print(said(found))


if __name__ == "__main__":
    main()
