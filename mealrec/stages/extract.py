"""Stage `extract`: catalogue to `features`, or to `quarantine` with a reason (Ray, decord)."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mealrec import __version__, claims
from mealrec.config import FeaturesConfig, RunConfig, digest
from mealrec.features.encoders import digest_of
from mealrec.features.extract import Extracted, ExtractionError, plan, rejects_in, rows_in_part, write_part
from mealrec.features.extract import extract as run_blocks
from mealrec.features.held import HeldRow, figures, may_pass, moved, rejected_as_before, rows_in, unchanged
from mealrec.features.remote import NOT_ASKED, is_remote, remote_stats
from mealrec.features.rows import Wanted, tried_as
from mealrec.lake import DIGEST_KEY, SUMMARY_KEY, Commit, Lake, Provenance
from mealrec.redaction import redact
from mealrec.schema import FEATURES, QUARANTINE, VIDEO_REASONS
from mealrec.sources.catalogue import BadRow
from mealrec.sources.errors import SourceError
from mealrec.sources.landing import Landing, locate
from mealrec.stages.summary import StageError, StageSummary

STAGE = "extract"
log = logging.getLogger("mealrec.extract")


def extract(config: RunConfig, *, run_id: str = "", landing: Landing | None = None, full: bool = False) -> StageSummary:
    """Every catalogue video ends in exactly one of `features` and `quarantine`.

    Videos whose file, title and encoders are those of a committed row are kept and not decoded; those that were rejected for
    what they are, and are still the same, stay in quarantine and are not tried again. Where that is all, and those whose
    reason may pass are tried and rejected as before, nothing is committed.
    Rows of the catalogue that name no video go to quarantine, each run.
    `landing` replaces the run's own landing folder, in a lake whose features are of no other; `full` decodes everything anew.
    Raises StageError above features.max_quarantine_share and where parts can't be written, before committing.
    """
    began = time.monotonic()
    lake, is_own = Lake(config.lake, config.work), landing is None
    landing = landing or locate(config)
    _look_whose_features_these_are(lake, landing, is_own)
    encoders = digest_of(config.features)
    remote = _remote(landing, config.features)
    made_from = digest(
        STAGE, __version__, config.features, encoders, landing.catalogue_fingerprint(), *([remote] if remote else [])
    )
    done = None if full else _done(lake, made_from)
    before = [] if full else _rejected_by(lake, lake.last_commit(FEATURES, STAGE))
    if done is not None and not any(map(may_pass, before)):
        return _up_to_date(done)
    claim = lake.claim(STAGE, run_id, QUARANTINE, FEATURES, decides=FEATURES)
    base = lake.version(FEATURES)
    held = {} if base is None else rows_in(lake, lake.files(FEATURES, base))
    videos, bad = landing.sifted_catalogue()
    catalogue, paths = _catalogue(videos, landing, remote)
    kept = set() if full else _unchanged(held, catalogue, paths, config.features, encoders)
    rejected = rejected_as_before(before, catalogue, tried_as(config.features, encoders))
    todo = [w for w in catalogue if w.video_id not in kept and w.video_id not in rejected]
    _say(catalogue, kept, len(rejected), len(todo))
    _say_what_names_no_video(landing, bad)
    _say_what_other_encoders_cost(held, todo, encoders, config.features.keep_frames)
    # a whole run finds the parts of its own attempts alone: those of others may be of frames that were kept
    day, attempt = datetime.now(UTC).date().isoformat(), digest(made_from, base, *(["full"] if full else []))
    try:
        extracted = run_blocks(config, lake, landing.root, plan(todo, config.features, day, attempt), full=full)
    except ExtractionError as error:
        raise StageError(
            f"{error}; nothing was committed, and a run again keeps the videos that were finished"
        ) from error
    still = _still_rejected(lake, rejected.values(), attempt)
    extracted = replace(extracted, quarantine=[*extracted.quarantine, *still])
    rejects, new = rejects_in(lake, extracted.quarantine), rows_in(lake, extracted.features)
    if done is not None and not new and _by_key(rejects) == _by_key(before):
        claims.release(lake.root, claim, run_id)
        return _up_to_date(done)
    extracted = replace(extracted, quarantine=[*extracted.quarantine, *_bad_rows(lake, landing, bad, day, attempt)])
    reasons = dict(sorted(Counter(row["reason"] for row in [*rejects, *(r._asdict() for r in bad)]).items()))
    _stop_when_too_bad(len(catalogue) + len(bad), reasons, config.features.max_quarantine_share)
    rows = [held[video] for video in sorted(kept)] + list(new.values())
    summary = StageSummary(
        stage=STAGE,
        seconds=round(time.monotonic() - began, 3),
        rows_in=len(catalogue) + len(bad),
        rows_out=len(rows),
        quarantined=reasons,
        table=FEATURES,
        details=_details(rows, extracted, len(kept)) | {"rejected_before": len(rejected), "landing": str(landing.root)},
    )
    assert summary.rows_in == summary.rows_out + sum(reasons.values())
    made = Provenance(STAGE, made_from, run_id, summary=summary.counts(), claim=claim)
    version = _commit(lake, extracted, held, kept, moved(held, catalogue, kept), made)
    log.info("committed %s version %d", FEATURES, version)
    return summary.model_copy(update={"version": version})


def _say(catalogue: list[Wanted], kept: set[str], rejected: int, todo: int) -> None:
    said = "%d videos in the catalogue: %d unchanged, %d rejected before and unchanged, %d to do"
    log.info(said, len(catalogue), len(kept), rejected, todo)
    if taken := sum(w.stat == NOT_ASKED for w in catalogue if w.video_id in kept):
        log.warning("%d of them could not be asked for in their store and are taken to be as they were", taken)


def _say_what_names_no_video(landing: Landing, bad: list[BadRow]) -> None:
    if bad:
        log.warning("%d rows of %s name no video; line %d: %s", len(bad), landing.catalogue_file(), *bad[0][:2])


def _look_whose_features_these_are(lake: Lake, landing: Landing, is_own: bool) -> None:
    """Where the newest features are of another landing's videos, this one's would replace them: that is said where it is the
    run's own (is_own); else raises SourceError."""
    commit, this = lake.last_commit(FEATURES, STAGE), redact(str(landing.root))
    of = this if commit is None else json.loads(commit.metadata[SUMMARY_KEY])["details"].get("landing")
    if of == this:
        return
    if not is_own:
        raise SourceError(
            f"the features in {lake.root} are of {of or 'another source'}; those of {this} would replace them: "
            "give the folder a lake of its own (--lake)"
        )
    if of is not None:
        log.warning("the features so far are of %s: videos that are not in %s leave the table", of, this)


def _done(lake: Lake, made_from: str) -> Commit | None:
    """The features' commit of a run with these inputs and settings that made both of its commits."""
    done = lake.committed(FEATURES, STAGE, made_from)
    return done if done is not None and lake.committed(QUARANTINE, STAGE, made_from) is not None else None


def _up_to_date(done: Commit) -> StageSummary:
    log.info("up to date: %s version %d", FEATURES, done.version)
    return StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)


def _remote(landing: Landing, config: FeaturesConfig) -> dict[str, str]:
    """size:mtime_ns of the catalogue's objects by uri. Raises StageError where a store can't be asked."""
    uris = (
        [uri for uri in landing.catalogue()["uri"].to_pylist() if is_remote(uri, config)] if config.url_schemes else []
    )
    try:
        return remote_stats(uris)
    except OSError as error:
        raise StageError(f"the catalogue's object store can't be asked: {str(error).splitlines()[0]}") from error


def _catalogue(videos: pa.Table, landing: Landing, remote: dict[str, str]) -> tuple[list[Wanted], dict[str, Path]]:
    """Catalogue rows with the size and change time of their files, and where the local files that are there lie."""
    rows, paths = [], {}
    for row in videos.to_pylist():
        uri, title = row["uri"] or None, (row["title"] or "").strip() or None
        stat = landing.stat(uri)
        if uri is not None and stat is not None:
            paths[row["video_id"]] = Path(landing.resolve(uri))
        rows.append(Wanted(row["video_id"], uri, title, f"{stat[0]}:{stat[1]}" if stat else remote.get(uri or "", "")))
    return rows, paths


def _unchanged(
    held: dict[str, HeldRow], catalogue: list[Wanted], paths: dict[str, Path], config: FeaturesConfig, encoders: str
) -> set[str]:
    """As `unchanged`. Raises StageError where files can't be read for no fault of theirs."""
    try:
        return unchanged(held, catalogue, paths, config, encoders)
    except OSError as error:
        raise StageError(f"files of the catalogue can't be read: {error}; nothing was committed") from error


def _rejected_by(lake: Lake, commit: Commit | None) -> list[dict[str, Any]]:
    """Videos in `quarantine` of the run that made this version of `features`; a run that was killed after it may have committed
    others."""
    if commit is None or not lake.exists(QUARANTINE):
        return []
    is_last = lake.committed(QUARANTINE, STAGE, commit.metadata[DIGEST_KEY]) is not None
    version = None if is_last else json.loads(commit.metadata["mealrec.inputs"]).get(QUARANTINE)
    of_videos = (pc.field("stage") == STAGE) & pc.field("reason").isin(VIDEO_REASONS)
    found: list[dict[str, Any]] = lake.read(QUARANTINE, version, filters=of_videos).to_pylist()
    return found


def _bad_rows(lake: Lake, landing: Landing, bad: list[BadRow], day: str, attempt: str) -> list[str]:
    """The part with the catalogue's rows that name no video; none where there are none."""
    if not bad:
        return []
    name = landing.catalogue_file().name
    rows = [
        {
            "reason": row.reason,
            "key": row.video_id,
            "detail": row.detail,
            "payload": row.payload,
            "source_file": name,
            "line": row.line,
        }
        for row in bad
    ]
    part = f"stage={STAGE}/ingest_date={day}/part-catalogue-{attempt}.parquet"
    write_part(lake, QUARANTINE, part, rows)
    return [part]


def _still_rejected(lake: Lake, rows: Iterable[dict[str, Any]], attempt: str) -> list[str]:
    """Parts with these rows, below the days on which they were rejected."""
    days: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        days.setdefault(row["ingest_date"], []).append(row)
    parts = {f"stage={STAGE}/ingest_date={day}/part-kept-{digest(attempt, day)}.parquet": day for day in sorted(days)}
    for part, day in parts.items():
        write_part(lake, QUARANTINE, part, [{k: v for k, v in row.items() if k != "stage"} for row in days[day]])
    return list(parts)


def _say_what_other_encoders_cost(
    held: dict[str, HeldRow], todo: list[Wanted], encoders: str, frames_are_kept: bool
) -> None:
    other = sum(w.video_id in held and held[w.video_id].encoder_digest != encoders for w in todo)
    if other and frames_are_kept:
        log.info("%d videos were encoded by others: their kept frames are used where there are some", other)
    elif other:
        log.info(
            "%d videos were encoded by others and must be decoded again: no frames are kept (features.keep_frames)",
            other,
        )


def _by_key(rejects: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    return {row["key"]: (row["reason"], row["payload"]) for row in rejects}


def _details(rows: list[HeldRow], extracted: Extracted, reused: int) -> dict[str, Any]:
    return {
        "done_now": extracted.done_now,
        "from_kept_frames": extracted.from_kept,
        "reused": reused,
        **figures(rows),
        "seconds_decode": extracted.seconds_decode,
        "seconds_encode": extracted.seconds_encode,
    }


def _stop_when_too_bad(total: int, reasons: dict[str, int], share: float) -> None:
    if sum(reasons.values()) > share * total:
        raise StageError(
            f"{sum(reasons.values())} of {total} videos rejected, more than features.max_quarantine_share={share:g} allows: "
            f"{reasons}; nothing was committed"
        )


def _commit(
    lake: Lake,
    extracted: Extracted,
    held: dict[str, HeldRow],
    kept: set[str],
    sources: dict[str, str],
    made: Provenance,
) -> int:
    """One commit a table, quarantine first: the features' commit is what marks the stage as done.

    New parts are added; a file that also holds rows that no longer stand, or whose source is another, leaves the table, and its
    other rows are rewritten.
    """
    rejected = [p for p in extracted.quarantine if rows_in_part(lake, QUARANTINE, p)]
    if not _is_committed(lake, rejected, made.digest):  # it is when a run was killed between the two commits
        lake.commit_files(QUARANTINE, rejected, made, mode="overwrite", partition_filters=[("stage", "=", STAGE)])
    made = replace(made, inputs={QUARANTINE: lake.at(QUARANTINE).version()} if lake.exists(QUARANTINE) else {})
    leaving: dict[str, list[str]] = {
        row.file: [] for video, row in held.items() if video not in kept or video in sources
    }
    for video in kept & held.keys():
        if held[video].file in leaving:
            leaving[held[video].file].append(video)
    parts = [p for p in extracted.features if rows_in_part(lake, FEATURES, p)]
    parts += [_carry_over(lake, file, standing, sources, made.digest) for file, standing in leaving.items() if standing]
    return lake.commit_files(FEATURES, parts, made, mode="append", removes=sorted(leaving))


def _is_committed(lake: Lake, rejected: list[str], made_from: str) -> bool:
    if lake.committed(QUARANTINE, STAGE, made_from) is None:
        return False
    return {f for f in lake.files(QUARANTINE) if f.startswith(f"stage={STAGE}/")} == set(rejected)


def _carry_over(lake: Lake, file: str, standing: list[str], sources: dict[str, str], key: str) -> str:
    """Rewrite the standing rows of a file that leaves the table, with their sources; returns the new part."""
    filesystem, root = lake.filesystem(FEATURES)
    with filesystem.open_input_file(f"{root}/{file}") as source:
        table = pq.read_table(source)
    rows = table.filter(pc.is_in(table["video_id"], pa.array(standing, pa.string()))).to_pylist()
    rows = [row | {"source_stat": sources.get(row["video_id"], row["source_stat"])} for row in rows]
    folder, _, name = file.rpartition("/")
    part = f"{folder}/part-kept-{digest(key, name)}.parquet"
    write_part(lake, FEATURES, part, rows, table.schema.metadata)
    return part
