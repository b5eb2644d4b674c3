"""Nights that build on the one before end with the tables that a rebuild of everything gives, bit for bit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mealrec.claims import Claim, Overtaken
from mealrec.config import RunConfig, SessionizeConfig, SourceConfig
from mealrec.data.profile import measure, pinned
from mealrec.features.extract import write_part
from mealrec.lake import THROUGH_KEY, Lake, Provenance
from mealrec.schema import FEATURES, INPUTS, INTERACTIONS, ITEMS, QUARANTINE, SEQUENCES
from mealrec.sources.landing import Landing
from mealrec.stages import sessionize as stage
from mealrec.stages.sequences import sequences_digest
from mealrec.stages.sessionize import FORM, sessionize_digest, settings_digest
from spark_jobs import commit, run_sequences
from spark_jobs.engine import Made
from spark_jobs.job import Job
from spark_jobs.night import neighbours
from spark_jobs.outcome import partition_of
from spark_jobs.run_sessionize import run, stop_when_too_bad
from spark_jobs.validate import NO_DAY, day_number
from tests.spark_jobs import logs as generated

DAY, MINUTE = 86_400_000, 60_000
FIRST = 1_767_571_200_000  # 2026-01-05
TABLES = {INTERACTIONS: ("event_id",), QUARANTINE: ("source_file", "line", "reason"), INPUTS: ("kind", "name")}


class World:
    """A landing folder whose days come one by one, and a lake."""

    def __init__(self, spark: Any, root: Path, **settings: Any) -> None:
        self.spark, self.root = spark, root
        self.through: str | None = None
        (root / "events").mkdir(parents=True)
        self.videos(["v1", "v2", "v3"])
        source = SourceConfig(kind="landing", directory=str(root))
        options = {"latest": "2026-02-01", "bot_events_a_minute": 20, "max_quarantine_share": 0.9} | settings
        self.config = RunConfig(lake=str(root / "lake"), source=source, sessionize=SessionizeConfig(**options))

    def videos(self, names: list[str]) -> None:
        text = "".join(json.dumps({"video_id": v, "uri": None, "title": None}) + "\n" for v in names)
        (self.root / "catalogue.jsonl").write_text(text)

    def file(self, name: str, rows: list[dict[str, Any] | str]) -> None:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (self.root / "events" / name).write_text("".join(f"{line}\n" for line in lines))

    def night(self, lake: str | None = None, *, full: bool = False, claim: Claim | None = None) -> dict[str, Any]:
        where = Lake(lake or self.config.lake)
        config = self.config.model_copy(update={"lake": where.root})
        held = claim or stage.claim(where, "")
        return run(Job(self.spark, config, where, Landing(self.root, self.through), "d", "", held, full))

    def sequences(self) -> dict[str, Any]:
        lake = Lake(self.config.lake)
        claim = lake.claim("sequences", "", ITEMS, SEQUENCES)
        return run_sequences.run(Job(self.spark, self.config, lake, Landing(self.root, self.through), "d", "", claim))

    def same_as_a_rebuild(self) -> None:
        other = str(self.root / f"rebuilt-{random.random()}")
        rebuilt = self.night(other)
        ours = json.loads(Lake(self.config.lake).last_commit(INTERACTIONS).metadata["mealrec.summary"])
        for key in ("rows_in", "rows_out", "quarantined"):
            assert ours[key] == rebuilt[key], key
        assert {k: v for k, v in ours["details"].items() if k != "read"} == {
            k: v for k, v in rebuilt["details"].items() if k != "read"
        }
        for table, order in TABLES.items():
            mine, theirs = (sorted_rows(lake, table, order) for lake in (self.config.lake, other))
            assert mine == theirs, table


def sorted_rows(lake: str, table: str, order: tuple[str, ...]) -> list[dict[str, Any]]:
    return sorted(Lake(lake).read(table).to_pylist(), key=lambda row: [str(row[name]) for name in order])


def event(name: str, user: str, ms: int, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "user_id": user, "video_id": "v1", "event_type": "like", "timestamp": ms} | more


def some_day(day: int, seed: int) -> list[Any]:
    """A day with sessions over both its midnights, copies, rejects, and rows that belong to the day before."""
    draw = random.Random(seed * 100 + day)
    rows: list[Any] = []
    for n in range(60):
        at = FIRST + day * DAY + draw.choice([0, 5, 700, 1430, 1439]) * MINUTE + draw.randint(0, 20) * MINUTE // 4
        at -= DAY if draw.random() < 0.15 else 0
        rows.append(event(f"{day}-{n}", f"u{draw.randint(1, 6)}", at, video_id=f"v{draw.randint(1, 4)}"))
    rows += [draw.choice(rows) for _ in range(4)]  # the same again
    rows += [dict(draw.choice(rows), timestamp=FIRST + day * DAY + n) for n in range(3)]  # its id at another time
    rows += ["broken", event(f"bad-{day}", "u1", 5), event(f"neg-{day}", "u2", FIRST + day * DAY, watch_ms=-1)]
    rows += [event(f"m-{day}-{n}", "machine", FIRST + day * DAY + n) for n in range(25)] if day % 2 else []
    draw.shuffle(rows)
    return rows


@pytest.mark.spark
@pytest.mark.slow
def test_nights_end_as_a_rebuild_does_bit_for_bit(spark: Any, tmp_path: Path) -> None:
    world = World(spark, tmp_path)
    for day in range(4):
        world.file(f"events-2026-01-{5 + day:02d}.jsonl", some_day(day, 1))
    world.night()
    world.file("events-2026-01-09.jsonl", some_day(4, 1))
    night = world.night()
    read = night["details"]["read"]
    # of five: the new one, the one whose day it has late events of, and the one whose sessions go on into that day
    assert read["files"] == 3 and read["days"] == 3  # its own, the one before, and some minutes of the next
    world.same_as_a_rebuild()
    # a file of a day long past arrives late, in the middle of sessions; another one goes away
    late = [event("late-1", "u1", FIRST + DAY - MINUTE), event("late-2", "u2", FIRST + DAY + 3 * MINUTE), "broken too"]
    (tmp_path / "events" / "late").mkdir()
    world.file("late/events-2026-01-05-again.jsonl", late)
    (tmp_path / "events" / "events-2026-01-07.jsonl").unlink()
    night = world.night()
    assert night["details"]["read"]["rows"] < night["rows_in"], "what only the last day has is not read into it"
    world.same_as_a_rebuild()
    world.videos(["v1", "v2", "v3", "v4"])
    world.night()
    world.same_as_a_rebuild()
    # other settings: everything is judged again
    world.config = world.config.model_copy(
        update={"sessionize": world.config.sessionize.model_copy(update={"gap_minutes": 5})}
    )
    assert world.night()["details"]["read"]["files"] == 5
    world.same_as_a_rebuild()


@pytest.mark.spark
@pytest.mark.slow
def test_the_number_of_spark_partitions_changes_no_row(spark: Any, tmp_path: Path) -> None:
    world = World(spark, tmp_path)
    for day in range(2):
        world.file(f"events-2026-01-{5 + day:02d}.jsonl", some_day(day, 2))
    base, made = world.config, {}
    for partitions in (1, 7):
        config = base.spark.model_copy(update={"shuffle_partitions": partitions})
        world.config = base.model_copy(update={"spark": config})
        lake = str(tmp_path / f"in {partitions}")
        world.night(lake)
        made[partitions] = {table: sorted_rows(lake, table, order) for table, order in TABLES.items()}
    assert made[1] == made[7]


@pytest.mark.spark
@pytest.mark.slow
def test_a_late_event_joins_sessions_of_days_that_nothing_else_touched(spark: Any, tmp_path: Path) -> None:
    """A chain without end over three midnights, cut at its second: the event that closes the gap renames all that follow."""
    world = World(spark, tmp_path)
    for day in range(4):
        rows = [event(f"{day}-{n}", "u1", FIRST + day * DAY + n * 20 * MINUTE) for n in range(72)]
        odd = event(f"odd-{day}", "u1", FIRST + day * DAY, event_type="teleport")
        world.file(f"events-2026-01-{5 + day:02d}.jsonl", [odd, *(r for r in rows if r["event_id"] != "1-1")])
    world.night()
    lake = Lake(world.config.lake)
    assert len(set(lake.read(INTERACTIONS)["session_id"].to_pylist())) == 2
    world.file("events-2026-01-06-late.jsonl", [event("1-1", "u1", FIRST + DAY + 20 * MINUTE)])
    world.night()
    assert len(set(lake.read(INTERACTIONS)["session_id"].to_pylist())) == 1
    assert max(lake.read(INTERACTIONS)["session_position"].to_pylist()) == 287
    world.same_as_a_rebuild()


@pytest.mark.spark
@pytest.mark.slow
def test_a_day_whose_sessions_move_keeps_its_rejects(spark: Any, tmp_path: Path) -> None:
    """Its valid rows are made again from the table, its files are not read."""
    world = World(spark, tmp_path)
    world.file("events-2026-01-05.jsonl", [event("a", "u2", FIRST)])
    next_day = [event(f"b{n}", "u1", FIRST + DAY + n * 5 * MINUTE) for n in (1, 2)]
    next_day += [event("c", "u1", FIRST + DAY, video_id="v9"), event("d", "u1", FIRST + DAY, event_type="teleport")]
    world.file("events-2026-01-06.jsonl", next_day)
    world.night()
    world.file("events-2026-01-05-late.jsonl", [event("e", "u1", FIRST + DAY - 10 * MINUTE)])
    night = world.night()
    assert night["details"]["read"]["files"] == 2 and night["quarantined"] == {
        "unknown_event_type": 1,
        "unknown_video": 1,
    }
    assert len(set(Lake(world.config.lake).read(INTERACTIONS)["session_id"].to_pylist())) == 2
    world.same_as_a_rebuild()
    world.videos(["v1", "v2", "v3", "v9"])
    assert world.night()["quarantined"] == {"unknown_event_type": 1}
    world.same_as_a_rebuild()


@pytest.mark.spark
@pytest.mark.slow
@settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],  # making a failure smaller would take Spark an hour: the pure test does that
    suppress_health_check=list(HealthCheck),
)
@given(files=generated.logs(viewers=40, fewest=40, files=3))
def test_a_night_on_any_log_gives_what_twenty_lines_of_python_say(
    spark: Any, tmp_path_factory: pytest.TempPathFactory, files: generated.Files
) -> None:
    """Many viewers at once, because Spark takes a second before its first row."""
    world = World(spark, tmp_path_factory.mktemp("world"), bot_events_a_minute=None)
    world.file("events-0.jsonl", [*files[0], event("first", "first", FIRST)])
    for n, rows in enumerate(files[1:], start=1):
        if n == 2:
            world.night()
        world.file(f"events-{n}.jsonl", rows)
    world.night()
    lake = Lake(world.config.lake)
    good, bad = generated.oracle([[*files[0], event("first", "first", FIRST)], *files[1:]])
    assert generated.found_good(lake.read(INTERACTIONS).to_pylist()) == good
    assert generated.found_bad(lake.read(QUARANTINE).to_pylist(), json.loads) == bad


@pytest.mark.spark
def test_tables_say_which_day_they_end_with_where_event_files_are_left_out(spark: Any, tmp_path: Path) -> None:
    world = World(spark, tmp_path, user_core=1)
    for day in (5, 6, 7):
        world.file(f"events-2026-01-0{day}.jsonl", [event(f"e{day}", "u1", FIRST + (day - 5) * DAY)])
    for day in ("2026-01-05", "2026-01-06", "2026-01-07"):
        world.through = day
        world.night()
        world.through = None  # what `interactions` say counts, not the files that are there now
        world.sequences()
    for table in (INTERACTIONS, SEQUENCES):
        said = [commit.metadata[THROUGH_KEY] for commit in reversed(Lake(world.config.lake).history(table))]
        assert said == ["2026-01-05", "2026-01-06", ""], "the last day leaves nothing out"


def test_only_neighbours_within_the_gap_are_looked_at() -> None:
    beside = neighbours(frozenset({10}), range(1, 20), frozenset(), 30)
    assert (beside.after, beside.trusted) == ({11}, {9})
    assert beside.since_ms == {9: 10 * DAY - 30 * MINUTE}
    assert neighbours(frozenset({10}), [3, 10], frozenset(), 30).trusted == set()
    wide = neighbours(frozenset({10}), range(1, 20), frozenset({11}), 2 * 1440)
    assert (wide.after, wide.trusted) == ({11, 12, 13}, {8, 9})


def test_a_wider_bound_for_rejects_makes_no_table_anew(tmp_path: Path) -> None:
    """Who widens it after a stop wants the next night to be one."""
    (tmp_path / "catalogue.jsonl").write_text(json.dumps({"video_id": "v1", "uri": None, "title": None}))
    base = RunConfig()
    other = base.model_copy(update={"sessionize": SessionizeConfig(max_quarantine_share=0.9)})
    assert settings_digest(base) == settings_digest(other)
    assert sequences_digest(base, Landing(tmp_path), 1) == sequences_digest(other, Landing(tmp_path), 1)


def test_settings_of_sequences_do_not_make_interactions_anew(tmp_path: Path) -> None:
    (tmp_path / "catalogue.jsonl").write_text(json.dumps({"video_id": "v1", "uri": None, "title": None}))
    base = RunConfig()
    other = base.model_copy(update={"sessionize": SessionizeConfig(user_core=9)})
    assert settings_digest(base) == settings_digest(other)
    assert sequences_digest(base, Landing(tmp_path), 1) != sequences_digest(other, Landing(tmp_path), 1)
    assert settings_digest(base) != settings_digest(
        base.model_copy(update={"sessionize": SessionizeConfig(gap_minutes=9)})
    )


def test_another_key_and_other_columns_make_interactions_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    base = RunConfig(sessionize=SessionizeConfig(viewer_key_variable="VIEWER_KEY"))
    monkeypatch.setenv("VIEWER_KEY", "sixteen bytes or more")
    before = settings_digest(base)
    renamed = SourceConfig.model_validate({"columns": {"user_id": "uid"}})
    assert settings_digest(base.model_copy(update={"source": renamed})) != before == settings_digest(base)
    monkeypatch.setenv("VIEWER_KEY", "another key of ours")
    assert settings_digest(base) != before


def test_another_form_of_the_tables_makes_them_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a night goes on, or has nothing to do, with tables as an earlier program made them."""
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events-2026-01-05.jsonl").write_text("")
    (tmp_path / "catalogue.jsonl").write_text(json.dumps({"video_id": "v1", "uri": None, "title": None}))
    config, landing = RunConfig(), Landing(tmp_path)
    before = settings_digest(config), sessionize_digest(config, landing)
    assert before == (settings_digest(config), sessionize_digest(config, landing))
    monkeypatch.setattr("mealrec.stages.sessionize.FORM", FORM + 1)
    assert settings_digest(config) != before[0] and sessionize_digest(config, landing) != before[1]


def test_rejects_lie_where_a_night_looks_for_them() -> None:
    file = day_number("2026-01-05")
    found = [partition_of(day, of) for day, of in ((file + 1, file), (None, file), (None, NO_DAY))]
    assert found == ["2026-01-06", "undated-2026-01-05", "undated"]


@pytest.mark.spark
@pytest.mark.parametrize("when", ["before it looks", "after it looked"])
def test_of_two_nights_at_once_one_wins_and_the_other_says_so(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The second begins and ends while the first is about to commit: before it looks at its claim, and after."""
    world = World(spark, tmp_path)
    world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST)])
    world.night()
    world.file("events-2026-01-06.jsonl", [event("b", "u1", FIRST + DAY)])
    real, lake = Lake._fenced, Lake(world.config.lake)
    late = []

    def fenced(self: Lake, table: str, claim: Any) -> Any:
        monkeypatch.setattr(Lake, "_fenced", real)
        found = real(self, table, claim) if when == "after it looked" else None
        late.append(world.night()["version"])
        return found or real(self, table, claim)

    monkeypatch.setattr(Lake, "_fenced", fenced)
    with pytest.raises(Overtaken, match="this one's result does not count"):
        world.night()
    assert late == [1] and lake.version(INTERACTIONS) == 1
    world.same_as_a_rebuild()


@pytest.mark.spark
def test_the_newer_of_two_nights_wins_though_the_older_one_had_begun_to_commit(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(spark, tmp_path)
    world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST), "broken"])
    world.night()
    world.file("events-2026-01-06.jsonl", [event("b", "u1", FIRST + DAY), "broken too"])
    real, newer = Lake._fenced, []

    def fenced(self: Lake, table: str, claim: Any) -> Any:
        monkeypatch.setattr(Lake, "_fenced", real)
        found = real(self, table, claim)
        newer.append(stage.claim(self, ""))
        return found

    monkeypatch.setattr(Lake, "_fenced", fenced)
    with pytest.raises(Overtaken, match="this one's result does not count"):
        world.night()
    lake = Lake(world.config.lake)
    assert (lake.version(QUARANTINE), lake.version(INTERACTIONS)) == (1, 0), "the older one's rejects are in"
    assert world.night(claim=newer[0])["version"] == 1
    world.same_as_a_rebuild()


@pytest.mark.spark
@pytest.mark.parametrize("table", [INPUTS, INTERACTIONS])
def test_a_night_that_ends_between_its_commits_is_not_seen_and_the_next_one_mends_it(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    world = World(spark, tmp_path, user_core=1)
    world.file("events-2026-01-05.jsonl", [event("a", "u1", FIRST), "broken"])
    world.night()
    world.sequences()
    lake = Lake(world.config.lake)
    write_part(lake, FEATURES, "bucket=0/part.parquet", [{"video_id": "v1"}])
    lake.commit_files(FEATURES, ["bucket=0/part.parquet"], Provenance("extract", "d"), mode="append")
    before = pinned(lake), measure(lake, pinned(lake), None)
    world.file("events-2026-01-06.jsonl", [event("b", "u1", FIRST + DAY), "broken too"])
    real = Lake._fenced

    def fenced(self: Lake, name: str, claim: Any) -> Any:
        if name == table:
            raise KeyboardInterrupt
        return real(self, name, claim)

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_fenced", fenced)
        with pytest.raises(KeyboardInterrupt):
            world.night()
    assert (lake.version(QUARANTINE), lake.version(INTERACTIONS)) == (1, 0), "the rejects alone are in"
    versions = pinned(lake)
    rejects = [
        [(one.name, one.counts) for one in profile if (one.group, one.name) == (QUARANTINE, "sessionize")]
        for profile in (before[1], measure(lake, versions, None))
    ]
    assert rejects[0] == rejects[1] == [("sessionize", (1, 2))]
    world.night()
    world.same_as_a_rebuild()


@pytest.mark.spark
def test_a_small_bad_file_stops_no_night(spark: Any, tmp_path: Path) -> None:
    world = World(spark, tmp_path, max_quarantine_share=0.2)
    world.file("events-2026-01-05.jsonl", [event(f"a{n}", "u1", FIRST + n * MINUTE) for n in range(20)])
    world.night()
    world.file("events-2026-01-06-torn.jsonl", ['{"event_id": "b'])
    assert world.night()["quarantined"] == {"unparseable": 1}
    few = [event(f"c{n}", "u1", FIRST + 2 * DAY + n * MINUTE) for n in range(3)]
    world.file("events-2026-01-07.jsonl", [*few, "broken", "broken"])
    assert world.night()["quarantined"] == {"unparseable": 3}
    world.same_as_a_rebuild()
    world.file("events-2026-01-08.jsonl", ["broken"] * 9)
    with pytest.raises(ValueError, match=r"12 of 35 rows rejected, more than .*max_quarantine_share=0\.2 allows"):
        world.night()


def judged(
    rows: int, reasons: int, *, good: int = 0, bad: int = 0, unreadable: int = 0, new_files: int = 1, share: float = 0.2
) -> str | None:
    """What stops a night of these rows of the tables as they would be, and of what it read."""
    plan = commit.Plan(frozenset(), frozenset(), rows, {"unparseable": reasons}, {}, {})
    names = frozenset(f"events-{n}" for n in range(unreadable))
    made = Made({}, {"unparseable": bad}, good, frozenset(), {}, frozenset(), {}, 1, names)
    try:
        stop_when_too_bad(plan, made, new_files, share)
    except ValueError as error:
        return str(error)
    return None


def test_a_night_is_judged_by_the_tables_and_by_what_it_read_where_that_is_enough() -> None:
    assert judged(10_000, 100, good=0, bad=1) is judged(10_000, 100, good=3, bad=2) is None
    assert judged(10_000, 999, good=400, bad=599) is None
    assert "600 of 1000 rows rejected" in (judged(10_000, 1000, good=400, bad=600) or "")
    assert "3 of 10 rows rejected" in (judged(7, 3, good=7, bad=3) or "")
    assert judged(8, 2) is None and "no valid event in 2 rows" in (judged(0, 2) or "")


def test_a_night_of_many_damaged_files_stops_though_each_is_one_row() -> None:
    assert judged(10_000, 9, unreadable=9, new_files=9) is None
    assert judged(10_000, 2, unreadable=2, new_files=10) is None
    said = judged(10_000, 3, unreadable=3, new_files=10) or ""
    assert "3 of 10 new event files have no record with a time" in said and "events-0" in said
