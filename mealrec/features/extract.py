"""Ray Data over the videos that need features: actors decode, encode and write Parquet parts themselves.

The unit of work is a block: some videos of one bucket. A block's part is named by what goes into it, so a run that was
killed finds the finished parts of the same inputs and does not do them again; nothing is visible before the driver commits.
Memory: an actor holds one block, the driver one small status row a block.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mealrec import full_disk
from mealrec.cluster import ray_cluster
from mealrec.config import FeaturesConfig, RunConfig, digest
from mealrec.features.allocation import keep_freed_memory
from mealrec.features.decoder import DecoderError
from mealrec.features.encoders import build
from mealrec.features.held import may_pass
from mealrec.features.kept_frames import KeptFrames
from mealrec.features.limits import limits_of, noted
from mealrec.features.remote import sweep_copies
from mealrec.features.rows import EncodersFailed, Row, Seconds, Wanted, bucket_of, decoder_for, describe
from mealrec.lake import Lake
from mealrec.schema import FEATURES, QUARANTINE, SCHEMAS

log = logging.getLogger("mealrec.extract")

TITLES_A_BLOCK = 128  # rows without a video cost a title's encoding only
ACTOR_CPUS = 0.8  # whole CPUs for the actors would starve Ray Data's own tasks on a small machine
INIT_DEATHS = 3  # actors killed one after the other before they were ready; one more ends the run
TAKEN_ALONG = 3  # workers that may die over a block, by whatever kills them; then the run ends and names its videos
SAY_EVERY_S = 5.0
STAGE_FOLDER = "stage=extract"  # of this stage's quarantine parts


class ExtractionError(RuntimeError):
    """A part could not be written, or no decoder started: no video is to blame, and nothing of the run is visible."""


@dataclass(frozen=True)
class Block:
    """Some wanted videos of one bucket and the paths of its parts below the two tables' roots."""

    videos: list[Wanted]
    features_part: str
    quarantine_part: str


@dataclass(frozen=True)
class Extracted:
    """Parts ready to be committed, and what was done now (parts found from an interrupted run are not counted)."""

    features: list[str]
    quarantine: list[str]
    done_now: int
    seconds_decode: float
    seconds_encode: float
    from_kept: int


def plan(wanted: list[Wanted], config: FeaturesConfig, day: str, attempt: str) -> list[Block]:
    """Blocks of one bucket each, in a fixed order. day: partition of the quarantine rows.

    attempt: digest of the stage's inputs, settings and table version. It is part of every part's name, so that a run finds
    the parts of its own interrupted attempts and never one that some version of the table already refers to.
    """
    blocks = []
    for has_media in (True, False):
        size = config.batch_videos if has_media else TITLES_A_BLOCK
        for bucket in range(config.buckets):
            own = [w for w in wanted if bucket_of(w.video_id, config.buckets) == bucket and bool(w.uri) == has_media]
            for start in range(0, len(own), size):
                videos = own[start : start + size]
                key = digest(attempt, [asdict(v) for v in videos])
                blocks.append(
                    Block(
                        videos,
                        f"bucket={bucket}/part-{key}.parquet",
                        f"{STAGE_FOLDER}/ingest_date={day}/part-{key}.parquet",
                    )
                )
    return blocks


def extract(config: RunConfig, lake: Lake, root: Path, blocks: list[Block], *, full: bool = False) -> Extracted:
    """Run the blocks that have no part yet on a Ray cluster; returns every block's parts. full: frames that are kept are not
    used. Raises ExtractionError."""
    final = set(lake.files(QUARANTINE)) if lake.exists(QUARANTINE) else set()
    finished = {b.features_part: b for b in _of_any_day(lake, blocks) if _is_done(lake, b, final)}
    todo = [b for b in blocks if b.features_part not in finished]
    blocks = [finished.get(b.features_part, b) for b in blocks]
    spent, done_now = Seconds(), 0
    if len(todo) < len(blocks):
        log.info("%d of %d blocks are there from an interrupted run", len(blocks) - len(todo), len(blocks))
    if todo:
        with ray_cluster(config.ray):
            for status in _run(config, lake, root, todo, full):
                done_now += int(status["videos"])
                spent.decode += float(status["seconds_decode"])
                spent.encode += float(status["seconds_encode"])
                spent.from_kept += int(status["from_kept"])
    return Extracted(
        [b.features_part for b in blocks],
        [b.quarantine_part for b in blocks],
        done_now,
        round(spent.decode, 2),
        round(spent.encode, 2),
        spent.from_kept,
    )


def _run(config: RunConfig, lake: Lake, root: Path, todo: list[Block], full: bool) -> Iterator[Row]:
    import ray.data
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    DataContext.get_current().verbose_stats_logs = False
    DataContext.get_current().max_consecutive_actor_init_deaths = INIT_DEATHS
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own lines say how far it is
    # one row a block: whatever way Ray cuts its input, a block stays whole
    rows = pa.table({"block": [json.dumps(asdict(b)) for b in todo]})
    actors = min(config.features.actors, len(todo))
    statuses = ray.data.from_arrow([rows.slice(i, 1) for i in range(len(rows))]).map_batches(
        ExtractActor,
        fn_constructor_args=(config.model_dump(mode="json"), lake.root, str(lake.work), str(root), full, uuid4().hex),
        batch_format="pyarrow",
        batch_size=1,
        compute=ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
        num_cpus=ACTOR_CPUS,
    )
    began = said = time.monotonic()
    done = rejected = 0
    total = sum(len(b.videos) for b in todo)
    for status in statuses.iter_rows():
        for line in status["said"].splitlines():
            log.info("worker: %s", line)
        if status["failed"]:
            raise ExtractionError(status["failed"])
        done, rejected = done + int(status["videos"]), rejected + int(status["rejected"])
        if time.monotonic() - said > SAY_EVERY_S or done == total:
            said = time.monotonic()
            rate = done / (said - began)
            log.info(
                "%d/%d videos, %d rejected, %.1f/s, %.0f s left", done, total, rejected, rate, (total - done) / rate
            )
        yield status


class ExtractActor:
    """A Ray actor: encoders loaded once, one decoder child, one block at a time."""

    def __init__(
        self, config: dict[str, Any], lake_root: str, work: str, root: str, full: bool = False, run: str = ""
    ) -> None:
        import torch

        torch.set_num_threads(1)
        keep_freed_memory()
        self.config = RunConfig.model_validate(config).features
        self.lake = Lake(lake_root, work)
        self.root = Path(root)
        self.encoders = build(self.config)
        self.decoder = decoder_for(self.encoders, self.config)
        self.kept = None
        if self.config.keep_frames and self.decoder is not None:
            # not Lake.folder: a work folder that takes nothing costs the frames, not the run
            frames = self.lake.work / "frames"
            self.kept = KeptFrames(frames, self.decoder.sampling(), limits_of(self.config), anew=full)
        self.said, self.tally = _Said(), _Tally(run)
        sweep_copies()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._do(json.loads(text)) for text in batch["block"].to_pylist()])

    def _do(self, block: Row) -> Row:
        """Write the block's two parts, empty or not: both there means done. Returns the status row, also where that fails: what
        is no video's fault stops the run, not the actor; so does a block that has taken too many workers along."""
        wanted = [Wanted(**video) for video in block["videos"]]
        spent, rejected, failed = Seconds(), 0, ""
        try:
            if (times := self.tally.begin(block["features_part"])) > TAKEN_ALONG:
                videos = ", ".join(w.video_id for w in wanted)
                raise DecoderError(f"{times} workers were killed over the videos {videos}: take out what kills them")
            rejected = self._write(block, wanted, spent)
        except (OSError, MemoryError, DecoderError, EncodersFailed) as error:
            failed = f"{type(error).__name__}: {error}"
        self.tally.end(block["features_part"])
        return {
            "videos": len(wanted),
            "rejected": rejected,
            "seconds_decode": spent.decode,
            "seconds_encode": spent.encode,
            "from_kept": spent.from_kept,
            "said": self.said.take(),
            "failed": failed,
        }

    def _write(self, block: Row, wanted: list[Wanted], spent: Seconds) -> int:
        outcome = describe(wanted, self.root, self.config, self.encoders, self.decoder, spent, self.kept)
        for row in outcome.quarantine:
            log.info("%s rejected: %s", row["key"], row["reason"])
            if row["reason"] == "not_encoded":  # as likely our fault as the video's: say how
                log.warning("%s: %s", row["key"], row["detail"])
        write_part(self.lake, QUARANTINE, block["quarantine_part"], outcome.quarantine)
        write_part(self.lake, FEATURES, block["features_part"], outcome.features, noted(limits_of(self.config)))
        return len(outcome.quarantine)


class _Tally:
    """How often each block was begun, in the memory of the cluster's head: what a worker knows dies with it. One for a run."""

    def __init__(self, run: str) -> None:
        self.run = run

    def begin(self, part: str) -> int:
        """How often it was begun before, each time by a worker that died over it; 0 outside Ray."""
        import ray
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

        if not ray.is_initialized():
            return 0
        before = int(_internal_kv_get(self._key(part)) or 0)
        _internal_kv_put(self._key(part), str(before + 1).encode(), overwrite=True)
        return before

    def end(self, part: str) -> None:
        import ray
        from ray.experimental.internal_kv import _internal_kv_del

        if ray.is_initialized():
            _internal_kv_del(self._key(part))

    def _key(self, part: str) -> bytes:
        return f"mealrec:{self.run}:{part}".encode()


class _Said(logging.Handler):
    """What an actor's process logs travels back with its next status row: on a cluster nobody reads its own log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        logger = logging.getLogger("mealrec")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def take(self) -> str:
        lines, self.lines = self.lines, []
        return "\n".join(lines)


def write_part(lake: Lake, table: str, path: str, rows: list[Row], notes: Mapping[Any, Any] | None = None) -> None:
    """Write one part below the table's root by rename; partition columns are in its folder names, not in the file. notes: the
    file's own metadata.

    Raises OSError where it can't be written; nothing of it stays then. Of writers of the same part each writes a whole one."""
    folders = {part.partition("=")[0] for part in path.split("/")[:-1]}
    schema = pa.schema([field for field in SCHEMAS[table] if field.name not in folders], notes)
    filesystem, root = lake.filesystem(table)
    folder, _, name = f"{root}/{path}".rpartition("/")
    filesystem.create_dir(folder, recursive=True)
    temporary = f"{folder}/.{name}.{uuid4().hex}.writing"
    try:
        with full_disk.named(f"{folder}/{name}"), filesystem.open_output_stream(temporary) as out:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, compression="zstd")
        filesystem.move(temporary, f"{folder}/{name}")
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def rows_in_part(lake: Lake, table: str, path: str) -> int:
    filesystem, root = lake.filesystem(table)
    with filesystem.open_input_file(f"{root}/{path}") as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _is_done(lake: Lake, block: Block, final: set[str]) -> bool:
    """Whether a block whose quarantine part is there has its other part too and rejected nothing for a reason that may pass;
    parts that are committed (`final`) stay as they are."""
    if not _exists(lake, FEATURES, block.features_part):
        return False
    return block.quarantine_part in final or not any(map(may_pass, rejects_in(lake, [block.quarantine_part])))


def _of_any_day(lake: Lake, blocks: list[Block]) -> list[Block]:
    """The blocks whose quarantine part is there, with its path: a run that was killed before midnight has written it below
    another day; the latest counts. Cost: one listing."""
    filesystem, root = lake.filesystem(QUARANTINE)
    selector = pafs.FileSelector(f"{root}/{STAGE_FOLDER}", allow_not_found=True, recursive=True)
    paths = sorted("/".join(one.path.split("/")[-3:]) for one in filesystem.get_file_info(selector))
    found = {path.rpartition("/")[2]: path for path in paths}
    names = [b.quarantine_part.rpartition("/")[2] for b in blocks]
    return [replace(b, quarantine_part=found[name]) for b, name in zip(blocks, names, strict=True) if name in found]


def rejects_in(lake: Lake, parts: Iterable[str]) -> list[Row]:
    """Key, reason and payload of the rows of these parts of `quarantine`."""
    filesystem, root = lake.filesystem(QUARANTINE)
    rows: list[Row] = []
    for part in parts:
        with filesystem.open_input_file(f"{root}/{part}") as file:
            rows += pq.read_table(file, columns=["key", "reason", "payload"]).to_pylist()
    return rows


def _exists(lake: Lake, table: str, path: str) -> bool:
    filesystem, root = lake.filesystem(table)
    return bool(filesystem.get_file_info(f"{root}/{path}").type == pafs.FileType.File)
