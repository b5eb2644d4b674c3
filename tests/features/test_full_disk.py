"""A disk that is full at any byte of any write: a reason, nothing half there, and the same rows once there is room."""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from mealrec.config import RunConfig
from mealrec.features import remote
from mealrec.features.extract import ExtractActor, plan
from mealrec.features.rows import Wanted
from mealrec.lake import Lake
from tests.small_disk import mounted

pytestmark = pytest.mark.media


def test_a_disk_that_is_full_at_any_write_leaves_nothing_half_and_says_so(
    run_config: RunConfig, clips: Path, tmp_path: Path
) -> None:
    features = run_config.features.model_copy(update={"buckets": 1, "batch_videos": 9})
    config = run_config.model_copy(update={"features": features})
    wanted = [Wanted(n, f"{n}.mp4", None, "") for n in ("silent", "vfr", "cut")]
    (block,) = plan(wanted, features, "2026-01-01", "attempt")
    lake = Lake(config.lake)
    actor = ExtractActor(config.model_dump(mode="json"), lake.root, str(lake.work), str(clips))
    table = pa.table({"block": [json.dumps(asdict(block))]})

    reasons = []
    for most in (0, 4, 500, 2_000, 4_000, 8_000, None):
        shutil.rmtree(lake.root, ignore_errors=True)
        status = _with_files_up_to(most, actor, table)
        reasons.append(status["failed"])
        left = sorted(p.name for p in Path(lake.root).rglob("*") if p.is_file())
        names = {Path(block.features_part).name, Path(block.quarantine_part).name}
        assert set(left) <= names, f"with files of at most {most} bytes half a file is left"
        assert (Path(lake.root) / "features" / block.features_part).exists() == (not status["failed"])
    assert reasons[0].startswith("OSError") and "File too large" in reasons[0]
    assert reasons[-1] == "" and (status["videos"], status["rejected"]) == (3, 1)
    assert sum(bool(r) for r in reasons) >= 4, "the limits fall into both files"
    actor.decoder.close()


def test_an_object_that_finds_no_room_for_its_copy_is_not_blamed(
    run_config: RunConfig, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config.features.model_copy(update={"url_schemes": ("s3",)})
    monkeypatch.setattr(remote, "_store", lambda bucket: (pafs.LocalFileSystem(), str(clips)))
    with mounted(tmp_path / "disk", "1m") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
        disk.leave(0)
        with (
            pytest.raises(OSError, match=rf"No space left on device: {disk.folder}/mealrec-video-\S+ is not written"),
            remote.local_file("s3://bucket/silent.mp4", tmp_path, config),
        ):
            pass
        assert disk.files() == []
        disk.leave(None)
        with remote.local_file("s3://bucket/silent.mp4", tmp_path, config) as found:
            assert found.path.read_bytes() == (clips / "silent.mp4").read_bytes()


def _with_files_up_to(most: int | None, actor: ExtractActor, table: pa.Table) -> dict[str, Any]:
    """The actor's status for the block, in a process whose files may not be larger: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        return actor(table).to_pylist()[0]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
