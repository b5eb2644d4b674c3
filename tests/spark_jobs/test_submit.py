"""Both jobs through spark-submit, in processes of their own."""

from __future__ import annotations

import hmac
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mealrec.config import RunConfig, SourceConfig, override
from mealrec.lake import DIGEST_KEY, Lake
from mealrec.schema import INTERACTIONS, ITEMS, QUARANTINE, SEQUENCES
from mealrec.sources.landing import SourceError, locate
from mealrec.stages import spark_submit
from mealrec.stages.sequences import sequences
from mealrec.stages.sessionize import sessionize, sessionize_digest
from mealrec.stages.summary import EngineLost, StageError

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def write_landing(root: Path, days: int = 2, bad: int = 3) -> RunConfig:
    events = root / "landing" / "events"
    events.mkdir(parents=True, exist_ok=True)
    for day in range(days):
        with (events / f"events-2026-01-{day + 5:02d}.jsonl").open("w") as file:
            for n in range(40):
                when = 1_767_600_000_000 + day * 86_400_000 + n * 60_000
                row = {
                    "event_id": f"{day}-{n}",
                    "user_id": f"u{n % 4}",
                    "video_id": f"v{(n * 7 + day) % 10}",
                    "event_type": "like",
                    "timestamp": when,
                }
                file.write(json.dumps(row) + "\n")
            file.write("broken\n" * bad)
    with (root / "landing" / "catalogue.jsonl").open("w") as file:
        for n in range(10):
            file.write(json.dumps({"video_id": f"v{n}", "uri": None, "title": f"title {n}"}) + "\n")
    source = SourceConfig(kind="landing", directory=str(root / "landing"))
    return RunConfig(lake=str(root / "lake"), source=source)


def test_rows_go_in_and_come_out_and_a_second_run_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIEWER_KEY", "sixteen bytes or more")
    config = override(write_landing(tmp_path), ["sessionize.viewer_key_variable=VIEWER_KEY"])
    lake = Lake(config.lake)
    first = sessionize(config, run_id="r1")
    assert (first.rows_in, first.rows_out, first.quarantined) == (86, 80, {"unparseable": 6})
    assert first.version == 0 and not first.skipped
    assert lake.read(QUARANTINE).num_rows == 6
    hashed = {hmac.new(b"sixteen bytes or more", f"u{n}".encode(), "sha256").hexdigest()[:32] for n in range(4)}
    assert set(lake.read(INTERACTIONS)["user_id"].to_pylist()) == hashed
    monkeypatch.setenv("VIEWER_KEY", "another key of ours")
    assert sessionize_digest(config, locate(config)) != lake.last_commit(INTERACTIONS).metadata[DIGEST_KEY]
    monkeypatch.setenv("VIEWER_KEY", "sixteen bytes or more")
    second = sequences(config, run_id="r1")
    assert second.rows_out == 4 and second.details["items"] == 10
    table = lake.read(SEQUENCES).to_pylist()
    assert {len(r["item_index"]) for r in table} == {r["length"] for r in table}
    index = {r["video_id"]: r["item_index"] for r in lake.read(ITEMS).to_pylist()}
    again = sessionize(config)
    assert again.skipped and again.version == 0 and again.quarantined == first.quarantined
    assert sequences(config).skipped
    # a new day and a new video: new versions, and no item changes its index
    write_landing(tmp_path, days=3)
    with (tmp_path / "landing" / "catalogue.jsonl").open("a") as file:
        file.write(json.dumps({"video_id": "a-new-one", "uri": None, "title": "new"}) + "\n")
    assert sessionize(config).version == 1 and sequences(config).version == 1
    later = {r["video_id"]: r["item_index"] for r in lake.read(ITEMS).to_pylist()}
    assert later == index | {"a-new-one": 11}
    assert lake.read(INTERACTIONS, 0).num_rows == 80 and lake.read(INTERACTIONS).num_rows == 120


@pytest.mark.night
def test_a_catalogue_with_other_names_is_read_by_the_jobs_too(tmp_path: Path) -> None:
    config = override(write_landing(tmp_path), ['source.catalogue={"video_id": "clip"}'])
    catalogue = tmp_path / "landing" / "catalogue.jsonl"
    catalogue.write_text(catalogue.read_text().replace("video_id", "clip"))
    assert sessionize(config).rows_out == 80


def test_a_job_whose_stage_was_claimed_by_a_newer_run_commits_nothing(
    tmp_path: Path,
) -> None:
    config = write_landing(tmp_path)
    lake = Lake(config.lake)

    class NewerRun(logging.Handler):
        """Claims the stage while Spark is at work."""

        def emit(self, record: logging.LogRecord) -> None:
            if "reading" in record.getMessage():  # seconds before the commit
                lake.claim("sessionize", "newer-run", INTERACTIONS)

    logger, newer = logging.getLogger("mealrec.sessionize"), NewerRun()
    logger.setLevel(logging.INFO)
    logger.addHandler(newer)
    try:
        with pytest.raises(StageError, match="taken over by a newer run newer-run"):
            sessionize(config, run_id="zombie")
    finally:
        logger.removeHandler(newer)
    assert not lake.exists(INTERACTIONS) and not lake.exists(QUARANTINE)


def test_too_many_bad_rows_stop_the_stage_before_it_commits(tmp_path: Path) -> None:
    config = write_landing(tmp_path, bad=30)
    with pytest.raises(StageError, match=r"60 of 140 rows rejected.*max_quarantine_share.*nothing was committed"):
        sessionize(config)
    assert not Lake(config.lake).exists(INTERACTIONS) and not Lake(config.lake).exists(QUARANTINE)


def test_a_killed_job_leaves_nothing_and_running_again_gives_the_same(tmp_path: Path) -> None:
    config = write_landing(tmp_path)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            sessionize(config)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    folder = Path(config.lake) / QUARANTINE
    deadline = time.monotonic() + 120
    while not folder.exists() and time.monotonic() < deadline and thread.is_alive():
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout.split()
    for pid in found:
        if int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)
    thread.join(60)
    assert isinstance(failure[0], EngineLost)
    assert not Lake(config.lake).exists(INTERACTIONS)
    assert sessionize(config).rows_out == 80
    assert Lake(config.lake).read(INTERACTIONS).num_rows == 80


def test_missing_inputs_are_named_before_spark_starts(tmp_path: Path) -> None:
    config = RunConfig(lake=str(tmp_path), source=SourceConfig(kind="landing", directory=str(tmp_path / "nowhere")))
    with pytest.raises(SourceError, match=r"no catalogue in .*nowhere"):
        sessionize(config)


def test_a_job_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spark_submit, "_spark_submit", lambda config: [sys.executable, "-c", "import time; time.sleep(60)"]
    )
    config = write_landing(tmp_path)
    config = config.model_copy(update={"spark": config.spark.model_copy(update={"timeout_s": 1})})
    with pytest.raises(StageError, match=r"spark\.timeout_s=1"):
        spark_submit.submit("run_sessionize", config, [], logging.getLogger("test"))


def test_without_any_java_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(StageError, match="Java 17 or 21 and none was found: run `make setup`"):
        spark_submit.find_java()


def test_the_java_that_set_up_provides_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / "java" / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", tmp_path / "java" / "bin" / "java")
    assert spark_submit.find_java() == tmp_path / "java"


@pytest.mark.parametrize("master", ["local[*]", "local[2]", "local"])
def test_a_local_spark_keeps_to_loopback(tmp_path: Path, master: str) -> None:
    config = override(RunConfig(), [f"spark.master={master}", "spark.driver_host=10.0.0.7"])
    options = spark_submit._spark_submit(config)
    assert {"spark.driver.host=127.0.0.1", "spark.driver.bindAddress=127.0.0.1"} <= set(options)
    assert spark_submit._environment(master)["SPARK_LOCAL_IP"] == "127.0.0.1"
    assert spark_submit._shipped(master, tmp_path) == []


def test_executors_elsewhere_reach_the_driver_and_get_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    master = "spark://head:7077"
    config = override(RunConfig(), [f"spark.master={master}"])
    options = spark_submit._spark_submit(config)
    assert not any("127.0.0.1" in option or "spark.driver." in option for option in options)
    named = spark_submit._spark_submit(override(config, ["spark.driver_host=10.0.0.7"]))
    assert "spark.driver.host=10.0.0.7" in named and "spark.driver.bindAddress=10.0.0.7" not in named
    assert "SPARK_LOCAL_IP" not in spark_submit._environment(master)
    flag, code = spark_submit._shipped(master, tmp_path)
    asked = f"import sys; sys.path.insert(0, {code!r}); import mealrec.lake as lake, spark_jobs.tasks as tasks"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    asked += "; print(lake.__file__, tasks.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert flag == "--py-files" and said.stdout.split() == [f"{code}/mealrec/lake.py", f"{code}/spark_jobs/tasks.py"]
