"""The lake in an object store: a real S3-compatible server in a process of its own, found by the usual AWS_* variables."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from botocore.exceptions import BotoCoreError, ClientError

from mealrec.cluster import ray_cluster
from mealrec.config import FeaturesConfig, RayConfig, RunConfig, SourceConfig
from mealrec.features.extract import write_part
from mealrec.features.remote import NOT_ASKED
from mealrec.lake import Lake, LostRace, Provenance
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.registry import flavour, promotion
from mealrec.registry.tracking import Tracker
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, PROMOTIONS, QUARANTINE, RECOMMENDATIONS, SCHEMAS, SEQUENCES
from mealrec.stages.extract import extract
from mealrec.stages.recommend import recommend
from mealrec.stages.sequences import sequences
from mealrec.stages.sessionize import sessionize
from mealrec.stages.vacuum import clean
from mealrec.training import bundle
from tests.conftest import write_packed
from tests.features.conftest import render
from tests.integration.servers import free_port, until
from tests.spark_jobs.test_submit import write_landing

BUCKET = "lake"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Address of the server, with an empty bucket; the process's AWS_* variables point to it."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
        }.items():
            environment.setenv(name, value)

        def made() -> bool:
            assert server.poll() is None, "the object store ended"
            try:
                boto3.client("s3").create_bucket(Bucket=BUCKET)
            except (BotoCoreError, ClientError):
                return False
            return True

        try:
            until(made, "the object store answers")
            yield address
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def lake(store: str, tmp_path: Path) -> Lake:
    return Lake(f"s3://{BUCKET}/{uuid4().hex}", str(tmp_path / "work"))


def made(digest: str, stage: str = "test") -> Provenance:
    return Provenance(stage, digest, "run", {"other": 3}, {"rows_out": 1})


def part(lake: Lake, path: str, *reasons: str) -> str:
    write_part(lake, QUARANTINE, path, [{"reason": reason, "key": path} for reason in reasons])
    return path


def reasons(lake: Lake, version: int | None = None) -> list[str]:
    return sorted(lake.read(QUARANTINE, version)["reason"].to_pylist())


def test_tables_are_committed_read_back_and_cleaned_up_as_in_a_folder(lake: Lake) -> None:
    first = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file", "empty_file")
    assert not lake.exists(QUARANTINE) and lake.history(QUARANTINE) == []
    assert lake.commit_files(QUARANTINE, [first], made("d1"), mode="overwrite") == 0
    second = part(lake, "stage=sessionize/ingest_date=2026-01-05/b.parquet", "future")
    assert lake.commit_files(QUARANTINE, [second], made("d2", "sessionize"), mode="append") == 1
    third = part(lake, "stage=extract/ingest_date=2026-01-06/c.parquet", "unreadable")
    mine = [("stage", "=", "extract")]
    lake.commit_files(QUARANTINE, [third], made("d3"), mode="overwrite", partition_filters=mine)
    assert lake.files(QUARANTINE) == [third, second]
    assert (reasons(lake), reasons(lake, 0)) == (["future", "unreadable"], ["empty_file", "missing_file"])
    assert lake.read(QUARANTINE, filters=pc.field("stage") == "extract")["reason"].to_pylist() == ["unreadable"]
    assert [commit.version for commit in lake.history(QUARANTINE, "test")] == [2, 0]
    last = lake.last_commit(QUARANTINE, "sessionize")
    assert last is not None and last.metadata["mealrec.inputs"] == '{"other": 3}'
    assert lake.committed(QUARANTINE, "test", "d3") is not None
    orphan = part(lake, "stage=extract/ingest_date=2026-01-05/orphan.parquet", "future")
    assert clean(lake, QUARANTINE, orphan_hours=1) == []  # too young
    assert [o.path for o in clean(lake, QUARANTINE, orphan_hours=0)] == [orphan]
    assert reasons(lake, 0) == ["empty_file", "missing_file"]


def test_a_small_table_is_written_and_replaced_from_the_driver(lake: Lake) -> None:
    rows = pa.Table.from_pylist([{"video_id": "a", "item_index": 1}], schema=SCHEMAS[ITEMS])
    assert (lake.write(ITEMS, rows, made("d1")), lake.write(ITEMS, rows.slice(0, 0), made("d2"))) == (0, 1)
    assert lake.read(ITEMS).num_rows == 0 and lake.read(ITEMS, 0).num_rows == 1


def test_workers_find_a_tables_files(lake: Lake) -> None:
    path = part(lake, "stage=extract/ingest_date=2026-01-05/a.parquet", "missing_file")
    lake.commit_files(QUARANTINE, [path], made("d1"), mode="overwrite")
    filesystem, root = lake.filesystem(QUARANTINE)
    assert lake.files(QUARANTINE) == [path] and f"s3://{root}" == lake.uri(QUARANTINE)
    assert pq.read_table(f"{root}/{path}", filesystem=filesystem)["reason"].to_pylist() == ["missing_file"]


WRITER = """
import sys
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from mealrec.lake import Lake, LostRace, Provenance
from mealrec.schema import QUARANTINE, SCHEMAS
lake, me = Lake(sys.argv[1], sys.argv[2]), sys.argv[3]
for line in sys.stdin:
    name = line.strip()
    path = f"stage=extract/ingest_date=2026-01-05/{name}-{me}.parquet"
    from mealrec.features.extract import write_part
    write_part(lake, QUARANTINE, path, [{"reason": me, "key": name}])
    table = DeltaTable(lake.uri(QUARANTINE))
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        table.create_write_transaction([lake._add_action(QUARANTINE, path)], mode="overwrite", schema=SCHEMAS[QUARANTINE],
            partition_by=["stage", "ingest_date"], commit_properties=Provenance("extract", name).properties())
        print("committed", flush=True)
    except CommitFailedError as error:
        print(f"refused: {error}".replace(chr(10), " "), flush=True)
"""


def test_of_two_writers_that_race_one_commits_and_the_other_is_refused(lake: Lake, tmp_path: Path) -> None:
    """Both prepared on the same version and told to commit at the same moment, ten times."""
    seed = part(lake, "stage=extract/ingest_date=2026-01-05/seed.parquet", "seed")
    lake.commit_files(QUARANTINE, [seed], made("d0"), mode="overwrite")
    names = ("one", "two")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, lake.root, str(tmp_path / "work"), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]

    def all_told(word: str) -> list[str]:
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(f"{word}\n")
            writer.stdin.flush()
        return [writer.stdout.readline().strip() for writer in writers if writer.stdout is not None]

    for number in range(10):
        assert all_told(f"round-{number}") == ["ready", "ready"]
        said = all_told("go")
        winners = [name for name, words in zip(names, said, strict=True) if words == "committed"]
        assert len(winners) == 1 and sum("refused: " in words for words in said) == 1, said
        assert reasons(lake) == winners and lake.version(QUARANTINE) == number + 1
    for writer in writers:
        writer.communicate()


@pytest.mark.spark
@pytest.mark.slow
def test_spark_writes_to_the_object_store_without_a_jar_for_it(lake: Lake, tmp_path: Path) -> None:
    config = write_landing(tmp_path).model_copy(update={"lake": lake.root, "work": str(lake.work)})
    tomorrow = tmp_path / "landing" / "events" / "events-2026-01-06.jsonl"
    held_back = tomorrow.rename(tmp_path / tomorrow.name)
    sessionize(config)
    held_back.rename(tomorrow)
    night = sessionize(config)
    assert (night.rows_out, night.details["read"]["rows"]) == (80, 43), "of the second day alone"
    assert sequences(config).rows_out == 4
    assert sum(lake.read(ITEMS)["interactions"].to_pylist()) == lake.read(INTERACTIONS).num_rows == 80
    histories = lake.read(SEQUENCES).to_pylist()
    assert sorted(row["user_id"] for row in histories) == ["u0", "u1", "u2", "u3"]
    index = {row["video_id"]: row["item_index"] for row in lake.read(ITEMS).to_pylist()}
    liked = {(row["user_id"], index[row["video_id"]]) for row in lake.read(INTERACTIONS).to_pylist()}
    assert {(row["user_id"], item) for row in histories for item in row["item_index"]} == liked


@pytest.mark.ray
@pytest.mark.slow
def test_extraction_writes_to_the_object_store_and_finds_its_rows_again(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "landing").mkdir()
    rows = [{"video_id": f"v{n}", "uri": None, "title": f"noodles {n}"} for n in range(4)]
    rows += [{"video_id": "nothing", "uri": None, "title": None}]
    (tmp_path / "landing" / "catalogue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig(
        lake=lake.root,
        work=str(lake.work),
        source=SourceConfig(kind="landing", directory=str(tmp_path / "landing")),
        features=FeaturesConfig(visual="none", audio="none", text="none", actors=1, buckets=2),
        ray=RayConfig(num_cpus=2, object_store_mb=80),
    )
    summary = extract(config)
    assert (summary.rows_out, summary.quarantined, summary.version) == (4, {"no_content": 1}, 0)
    assert sorted(lake.read(FEATURES, columns=["video_id"])["video_id"].to_pylist()) == ["v0", "v1", "v2", "v3"]
    assert extract(config).skipped


@pytest.mark.media
def test_videos_in_the_object_store_are_read_by_the_workers_and_only_changed_ones_again(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, bucket = boto3.client("s3"), f"videos-{uuid4().hex}"
    store.create_bucket(Bucket=bucket)
    (tmp_path / "landing" / "videos").mkdir(parents=True)
    (tmp_path / "clips").mkdir()
    good = render(tmp_path / "clips" / "good.mp4").read_bytes()
    objects = {"good": good, "b/ü x": good, "cut": good[:700], "large": bytes(10_000_000), "text": b"no video at all"}
    for key, body in objects.items():
        store.put_object(Bucket=bucket, Key=key, Body=body)
    uris = {key: f"s3://{bucket}/{quote(key)}" for key in (*objects, "gone")}
    uris |= {"elsewhere": f"s3://{bucket}/good?endpoint_override=evil:80", "secret": f"s3://k:s@{bucket}/good"}
    uris |= {"web": "http://host/a.mp4"}
    rows = [json.dumps({"video_id": key, "uri": uri, "title": None}) + "\n" for key, uri in uris.items()]
    (tmp_path / "landing" / "catalogue.jsonl").write_text("".join(rows))
    features = FeaturesConfig(
        frames=2, frame_size=64, audio="none", text="none", actors=1, buckets=1, batch_videos=20, max_bytes=9_000_000
    )
    config = RunConfig(
        lake=lake.root,
        work=str(lake.work),
        source=SourceConfig(kind="landing", directory=str(tmp_path / "landing")),
        features=features.model_copy(update={"url_schemes": ("s3",), "max_quarantine_share": 1.0}),
        ray=RayConfig(num_cpus=2, object_store_mb=80),
    )
    with ray_cluster(config.ray):
        first = extract(config)
        reasons = {r["key"]: r["reason"] for r in lake.read(QUARANTINE).to_pylist()}
        assert reasons == {
            "cut": "unreadable",
            "large": "too_large",
            "text": "not_a_video",
            "gone": "missing_file",
            "elsewhere": "uri_not_allowed",
            "secret": "uri_not_allowed",
            "web": "uri_not_allowed",
        }
        assert first.rows_out == 2 and extract(config).skipped
        store.put_object(Bucket=bucket, Key="good", Body=render(tmp_path / "clips" / "b.mp4", frames=12).read_bytes())
        second = extract(config)
        with monkeypatch.context() as patch:
            patch.setattr("mealrec.stages.extract.remote_stats", lambda uris: dict.fromkeys(uris, NOT_ASKED))
            unasked = extract(config)
    assert (unasked.details["reused"], unasked.rows_out) == (2, 2), (
        "features stay where their objects can't be asked for"
    )
    assert [second.details[name] for name in ("reused", "rejected_before", "done_now")] == [1, 7, 1]
    assert second.quarantined == first.quarantined
    declared = {r["video_id"]: r["declared_frames"] for r in lake.read(FEATURES).to_pylist()}
    assert declared == {"good": 12, "b/ü x": 24}
    assert list(Path(tempfile.gettempdir()).glob("mealrec-video-*")) == []


def test_recommendations_are_written_to_the_object_store(lake: Lake, tmp_path: Path) -> None:
    data = write_packed(tmp_path / "packed")
    torch.manual_seed(0)
    model = bundle.write(
        MealRec(ModelSettings(**data.content.dims, width=16, max_history=8)), data, tmp_path / "bundle"
    )
    config = RunConfig(lake=lake.root, work=str(lake.work))
    tracker = Tracker(config.registry, lake.work)
    run = tracker.start("train", "digest", "a run")
    version = promotion.register(tracker, flavour.log_model(tracker, run, model), run, {})
    tracker.client.set_registered_model_alias(config.registry.model_name, promotion.CHAMPION, version.version)
    histories = [[1, 2, 3], [4, 5]]
    write_part(
        lake, SEQUENCES, "bucket=0/a.parquet", [{"user_id": f"u{n}", "item_index": h} for n, h in enumerate(histories)]
    )
    lake.commit_files(SEQUENCES, ["bucket=0/a.parquet"], made("d1", "sequences"), mode="overwrite")
    summary = recommend(config)
    assert (summary.rows_out, summary.version) == (2, 0)
    served = {row["user_id"]: row["video_ids"] for row in lake.read(RECOMMENDATIONS).to_pylist()}
    assert set(served) == {"u0", "u1"} and not {"v1", "v2", "v3"} & set(served["u0"])
    assert recommend(config).skipped


def test_of_two_appends_to_the_same_version_the_second_is_told_that_it_lost(lake: Lake) -> None:
    entry = pa.Table.from_pylist([{"version": "1"}], schema=SCHEMAS[PROMOTIONS])
    for base, version in ((-1, 1), (1, 2)):  # the empty first version is made on the way
        assert lake.append_at(PROMOTIONS, base, entry, made("d")) == version
        with pytest.raises(LostRace, match="somebody else has committed"):
            lake.append_at(PROMOTIONS, base, entry, made("d"))
    assert lake.read(PROMOTIONS).num_rows == 2
