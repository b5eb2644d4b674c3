"""From the parts that tasks wrote to one transaction a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from mealrec.lake import Lake, Provenance
from mealrec.schema import INPUTS, INTERACTIONS, QUARANTINE, SCHEMAS
from mealrec.stages.summary import StageSummary
from spark_jobs.engine import Made
from spark_jobs.job import Job
from spark_jobs.night import Last, Stat
from spark_jobs.outcome import UNDATED, file_schema
from spark_jobs.parts import Parts
from spark_jobs.validate import day_name

STAGE = "sessionize"


@dataclass(frozen=True)
class Plan:
    """Files of `interactions` and, of this stage, of `quarantine`, as they are to be; totals over them."""

    interactions: frozenset[str]
    quarantine: frozenset[str]
    rows: int
    reasons: dict[str, int]
    per_day: dict[str, tuple[int, int]]
    days_of_file: Mapping[str, frozenset[int]]


def prepare(lake: Lake, last: Last | None, made: Made, touched: frozenset[int] | None, gone: frozenset[str]) -> Plan:
    """touched: days that were made anew from their records (None: all). Of the rest, the files of the last night stay, but
    for the valid rows of days whose sessions moved: those were made from the table, which knows of no reject."""
    good, bad = frozenset(made.parts[INTERACTIONS]), frozenset(made.parts[QUARANTINE])
    if last is None or touched is None:
        rows = sum(made.parts[INTERACTIONS].values())
        return Plan(good, bad, rows, made.reasons, made.per_day, made.days_of_file)
    read, days = ({day_name(day) for day in chosen} for chosen in (touched, touched | made.moved))
    kept = {p: n for p, n in rows_of(lake, INTERACTIONS, last.interactions).items() if _value(p, 0) not in days}
    held = [p for p in rows_of(lake, QUARANTINE, last.quarantine) if p.startswith(f"stage={STAGE}/")]
    held = [path for path in held if _value(path, 1) not in read]
    rewritten = _without(lake, [p for p in held if _value(p, 1).startswith(UNDATED)], gone) if gone else {}
    held = [path for path in held if path not in rewritten]
    bad |= frozenset(new for new in rewritten.values() if new)
    return Plan(
        interactions=good | kept.keys(),
        quarantine=bad | set(held),
        rows=sum(made.parts[INTERACTIONS].values()) + sum(kept.values()),
        reasons=_reasons(lake, bad | set(held)),
        per_day={d: f for d, f in last.per_day.items() if d not in days} | made.per_day,
        days_of_file=made.days_of_file,
    )


def commit(job: Job, plan: Plan, summary: StageSummary, stats: Mapping[str, Stat], videos: frozenset[str]) -> int:
    """Quarantine and inputs first: what is committed without `interactions` is not looked at by anybody, and written over."""
    made = Provenance(
        STAGE, job.digest, job.run_id, summary=summary.counts(), claim=job.claim, through=job.landing.cut()
    )
    within = f"stage={STAGE}/"
    versions = {QUARANTINE: job.lake.commit_files(QUARANTINE, plan.quarantine, made, mode="append", within=within)}
    versions |= {INPUTS: job.lake.write(INPUTS, _inputs(plan, stats, videos), made)}
    made = replace(made, inputs=versions)
    return job.lake.commit_files(INTERACTIONS, plan.interactions, made, mode="append", within="")


def days_there(lake: Lake, version: int) -> set[str]:
    return {_value(path, 0) for path in lake.files(INTERACTIONS, version)}


def rows_of(lake: Lake, table: str, version: int) -> dict[str, int]:
    """Files of a version with their rows, from its log."""
    actions = pa.table(lake.at(table, version).get_add_actions())
    return dict(zip(actions["path"].to_pylist(), actions["num_records"].to_pylist(), strict=True))


def _without(lake: Lake, paths: Iterable[str], gone: frozenset[str]) -> dict[str, str]:
    """Parts that hold rejects of vanished or changed files: {path: its replacement without them, or ""}."""
    filesystem, root = lake.filesystem(QUARANTINE)
    out = {}
    for path in paths:
        rows = pq.read_table(f"{root}/{path}", filesystem=filesystem, schema=file_schema(QUARANTINE), partitioning=None)
        kept = rows.filter(pa.array([name not in gone for name in rows["source_file"].to_pylist()]))
        if len(kept) < len(rows):
            parts = Parts(lake, QUARANTINE)
            if len(kept):
                parts.write({"stage": STAGE, "ingest_date": _value(path, 1)}, kept)
            parts.close()
            out[path] = next(iter(parts.paths), "")
    return out


def _reasons(lake: Lake, paths: Iterable[str]) -> dict[str, int]:
    filesystem, root = lake.filesystem(QUARANTINE)
    counts: Counter[str] = Counter()
    files = sorted(f"{root}/{path}" for path in paths)
    if files:
        dataset = pads.dataset(files, schema=file_schema(QUARANTINE), format="parquet", filesystem=filesystem)
        for batch in dataset.to_batches(columns=["reason"]):
            for entry in batch.column("reason").value_counts().to_pylist():
                counts[entry["values"]] += entry["counts"]
    return dict(sorted(counts.items()))


def _inputs(plan: Plan, stats: Mapping[str, Stat], videos: frozenset[str]) -> pa.Table:
    nothing = dict.fromkeys(SCHEMAS[INPUTS].names)
    rows = [
        nothing
        | {"kind": "file", "name": name, "size": size, "mtime_ns": mtime}
        | {"days": [day_name(day) for day in sorted(plan.days_of_file.get(name, ()))]}
        for name, (size, mtime) in sorted(stats.items())
    ]
    rows += [
        nothing | {"kind": "day", "name": day, "sessions": sessions, "positive": positive}
        for day, (sessions, positive) in sorted(plan.per_day.items())
    ]
    rows += [nothing | {"kind": "video", "name": video} for video in sorted(videos)]
    return pa.Table.from_pylist(rows, schema=SCHEMAS[INPUTS])


def _value(path: str, level: int) -> str:
    return path.split("/")[level].partition("=")[2]
