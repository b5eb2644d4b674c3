"""Stage `extract`: catalogue to `features`, or to `quarantine` with a reason (Ray, decord)."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec import __version__
from mealrec.config import FeaturesConfig, RunConfig, digest
from mealrec.features.encoders import digest_of
from mealrec.features.extract import Extracted, plan, rows_in_part, write_part
from mealrec.features.extract import extract as run_blocks
from mealrec.features.rows import Wanted, bucket_of, content_hash
from mealrec.lake import SUMMARY_KEY, Lake, Provenance
from mealrec.schema import FEATURES, QUARANTINE
from mealrec.sources.landing import Landing, locate
from mealrec.stages.summary import StageError, StageSummary

log = logging.getLogger("mealrec.extract")


def extract(config: RunConfig, *, run_id: str = "", landing: Landing | None = None) -> StageSummary:
    """Every catalogue video ends in exactly one of `features` and `quarantine`.

    Videos whose file, title and encoders are those of a committed row are kept and not decoded; rejected ones are tried again.
    `landing` replaces the run's own landing folder. Raises StageError above features.max_quarantine_share, before committing.
    """
    began = time.monotonic()
    lake, landing = Lake(config.lake, config.work), landing or locate(config)
    made_from = digest(
        "extract", __version__, config.features, digest_of(config.features), landing.catalogue_fingerprint()
    )
    done = lake.committed(FEATURES, "extract", made_from)
    if done is not None:
        log.info("up to date: %s version %d", FEATURES, done.version)
        return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
    catalogue = [_wanted(landing, row) for row in landing.catalogue().to_pylist()]
    kept = _unchanged(lake, landing, catalogue, config.features)
    todo = [w for w in catalogue if w.video_id not in kept]
    log.info("%d videos in the catalogue: %d unchanged, %d to do", len(catalogue), len(kept), len(todo))
    blocks = plan(todo, config.features, datetime.now(UTC).date().isoformat())
    extracted = run_blocks(config, lake, landing.root, blocks)
    reasons = _reasons(lake, extracted.quarantine)
    _stop_when_too_bad(len(catalogue), reasons, config.features.max_quarantine_share)
    summary = StageSummary(
        stage="extract",
        seconds=round(time.monotonic() - began, 3),
        rows_in=len(catalogue),
        rows_out=len(catalogue) - sum(reasons.values()),
        quarantined=reasons,
        table=FEATURES,
        details=_details(lake, extracted, len(kept)),
    )
    version = _commit(
        lake, extracted, kept, catalogue, Provenance("extract", made_from, run_id, summary=summary.counts())
    )
    log.info("committed %s version %d", FEATURES, version)
    return summary.model_copy(update={"version": version})


def _wanted(landing: Landing, row: dict[str, Any]) -> Wanted:
    path = _local(landing, row["uri"])
    stat = f"{path.stat().st_size}:{path.stat().st_mtime_ns}" if path is not None and path.is_file() else ""
    return Wanted(row["video_id"], row["uri"] or None, row["title"] or None, stat)


def _local(landing: Landing, uri: str | None) -> Path | None:
    resolved = landing.resolve(uri) if uri else ""
    return Path(resolved) if resolved and "://" not in resolved else None


def _unchanged(lake: Lake, landing: Landing, catalogue: list[Wanted], config: FeaturesConfig) -> set[str]:
    """Ids whose committed row still holds: same encoders, and the same file by size and change time, else by content."""
    if not lake.exists(FEATURES):
        return set()
    columns = ["video_id", "encoder_digest", "source_stat", "content_hash", "bucket"]
    held = {row["video_id"]: row for row in lake.read(FEATURES, columns=columns).to_pylist()}
    kept = set()
    for one in catalogue:
        row = held.get(one.video_id)
        if row is None or row["encoder_digest"] != digest_of(config):
            continue
        if row["bucket"] != bucket_of(one.video_id, config.buckets) or bool(one.stat) != bool(row["source_stat"]):
            continue
        # size and change time tell most; the title is part of the content hash and must be compared through it
        if row["content_hash"] == content_hash(_local(landing, one.uri) if one.stat else None, one.title):
            kept.add(one.video_id)
    return kept


def _reasons(lake: Lake, parts: list[str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    filesystem, root = lake.filesystem(QUARANTINE)
    for part in parts:
        with filesystem.open_input_file(f"{root}/{part}") as file:
            counts.update(pq.read_table(file, columns=["reason"])["reason"].to_pylist())
    return dict(sorted(counts.items()))


def _details(lake: Lake, extracted: Extracted, reused: int) -> dict[str, Any]:
    """Figures of the new parts; columns of arrays are not read."""
    frames, absent = 0, Counter[str]()
    filesystem, root = lake.filesystem(FEATURES)
    for part in extracted.features:
        with filesystem.open_input_file(f"{root}/{part}") as file:
            table = pq.read_table(file, columns=["decoded_frames", "absent", "declared_frames"])
        frames += int(pc.sum(table["decoded_frames"]).as_py() or 0)
        for row in table.to_pylist():
            if row["declared_frames"]:  # titles without a video lack the others by nature
                absent.update(entry.partition(":")[0] for entry in row["absent"])
    return {
        "done_now": extracted.decoded,
        "reused": reused,
        "frames": frames,
        "absent": dict(sorted(absent.items())),
        "seconds_decode": extracted.seconds_decode,
        "seconds_encode": extracted.seconds_encode,
    }


def _stop_when_too_bad(total: int, reasons: dict[str, int], share: float) -> None:
    if sum(reasons.values()) > share * total:
        raise StageError(
            f"{sum(reasons.values())} of {total} videos rejected, more than features.max_quarantine_share={share:g} allows: "
            f"{reasons}; nothing was committed"
        )


def _commit(lake: Lake, extracted: Extracted, kept: set[str], catalogue: list[Wanted], made: Provenance) -> int:
    """Quarantine first: the features' commit is what marks the stage as done.

    When rows went stale, the rows that stay are rewritten beside the new parts (cost: the table once) and both replace the
    old version in one transaction; otherwise the new parts are appended.
    """
    quarantine = [p for p in extracted.quarantine if rows_in_part(lake, QUARANTINE, p)]
    lake.commit_files(QUARANTINE, quarantine, made, mode="overwrite", partition_filters=[("stage", "=", "extract")])
    parts = [p for p in extracted.features if rows_in_part(lake, FEATURES, p)]
    held = lake.at(FEATURES).to_pyarrow_dataset().count_rows() if lake.exists(FEATURES) else 0
    if held == len(kept):
        return lake.commit_files(FEATURES, parts, made, mode="append")
    return lake.commit_files(FEATURES, [*parts, *_carry_over(lake, kept, made.digest)], made, mode="overwrite")


def _carry_over(lake: Lake, kept: set[str], key: str) -> list[str]:
    parts = []
    dataset = lake.at(FEATURES).to_pyarrow_dataset()
    wanted = pc.field("video_id").isin(pa.array(sorted(kept), pa.string()))
    for number, batch in enumerate(dataset.to_batches(filter=wanted, batch_size=256)):
        table = pa.Table.from_batches([batch])
        for bucket in pc.unique(table["bucket"]).to_pylist():
            part = f"bucket={bucket}/part-kept-{key}-{number}.parquet"
            rows = table.filter(pc.equal(table["bucket"], bucket)).drop_columns(["bucket"]).to_pylist()
            write_part(lake, FEATURES, part, rows)
            parts.append(part)
    return parts
