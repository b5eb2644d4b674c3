"""The gate over real tables: an unchanged night passes, a moved one stops with what moved, and only a reason lets it on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mealrec.cli import main
from mealrec.config import RunConfig
from mealrec.data import profile as measuring
from mealrec.features.extract import write_part
from mealrec.lake import Lake, LostRace, Provenance
from mealrec.schema import FEATURES, INTERACTIONS, ITEMS, PROFILES, QUARANTINE, SCHEMAS, SEQUENCES
from mealrec.sources.simulated.logs import write_logs
from mealrec.sources.simulated.world import plan_videos, plan_viewers
from mealrec.stages import profile as gate
from mealrec.stages.profile import acceptances, profile
from mealrec.stages.summary import StageError

DAY_MS, BEGAN_MS = 86_400_000, 1_767_571_200_000
VIEWERS, VIDEOS, EVENTS, DAYS = 60, 30, 600, 12
MADE = Provenance("test", "d")


@dataclass
class World:
    """A lake of DAYS days, made anew or grown by a day with something wrong with it."""

    lake: Lake
    config: RunConfig

    def day(self, day: int, *, mode: Any = "append", **changes: Any) -> None:
        part = f"event_date={name_of(day)}/part-{day}-{changes.get('hours')}-{len(changes)}.parquet"
        write_part(self.lake, INTERACTIONS, part, events(day, **changes))
        old = (
            [p for p in self.lake.files(INTERACTIONS) if p != part and p.split("/")[0] == part.split("/")[0]]
            if (self.lake.exists(INTERACTIONS))
            else []
        )
        self.lake.commit_files(INTERACTIONS, [part], MADE, mode="append", removes=old)

    def rest(self, viewers: int = VIEWERS, **feature: Any) -> None:
        rows = [{"user_id": f"u{n}", "length": 3 + n % 9, "item_index": [1, 2, 3]} for n in range(viewers)]
        self._replace(SEQUENCES, "bucket=0", rows)
        videos = [{"video_id": f"v{n}", "absent": [], "duration_ms": 9000} | feature for n in range(VIDEOS)]
        self._replace(FEATURES, "bucket=0", videos)
        rejected = [{"reason": "unparseable", "key": f"k{n}"} for n in range(12)]
        self._replace(QUARANTINE, "stage=sessionize/ingest_date=2026-01-05", rejected)
        items = [{"video_id": f"v{n}", "item_index": n + 1, "interactions": 500 // (n + 1)} for n in range(VIDEOS)]
        self.lake.write(ITEMS, pa.Table.from_pylist(items, schema=SCHEMAS[ITEMS]), MADE)

    def _replace(self, table: str, folder: str, rows: list[dict[str, Any]]) -> None:
        version = self.lake.version(table)
        part = f"{folder}/part-{version}.parquet"
        write_part(self.lake, table, part, rows)
        self.lake.commit_files(table, [part], MADE, mode="overwrite")


def name_of(day: int) -> str:
    return str(np.datetime64("2026-01-05") + day)


def events(
    day: int, *, longer: float = 1.0, viewers: int = VIEWERS, without: str = "", hours: int = 24, **more: Any
) -> list[dict[str, Any]]:
    """hours: from the day's beginning, of the events that there are."""
    rng = np.random.default_rng(day)
    rows = []
    for n in range(EVENTS * viewers // VIEWERS):
        watched = float(rng.gamma(2.0, 2500.0)) * longer
        row = {
            "event_id": f"{day}-{n}",
            "user_id": f"u{n % viewers}",
            "video_id": f"v{n % VIDEOS}",
            "event_type": "view",
            "timestamp_ms": BEGAN_MS + day * DAY_MS + int(rng.integers(DAY_MS)),
            "session_position": len(rows) // viewers % 4,
            "watch_ms": int(watched),
            "duration_ms": 10_000,
            "watch_ratio": watched / 10_000,
            "is_positive": watched > 3000,
            "device": "ios" if n % 3 else "web",
        }
        if row["timestamp_ms"] < BEGAN_MS + day * DAY_MS + hours * 3_600_000:
            rows.append({k: v for k, v in (row | more).items() if k != without})
    return rows


@pytest.fixture
def world(tmp_path: Path) -> World:
    config = RunConfig(lake=str(tmp_path / "lake"))
    made = World(Lake(config.lake), config)
    for day in range(DAYS):
        made.day(day)
    made.rest()
    return made


def stopped(world: World) -> str:
    """The reason that the gate gives; asked again it gives the same."""
    accepted = acceptances(world.lake)[1]
    with pytest.raises(StageError) as first:
        profile(world.config)
    with pytest.raises(StageError) as again:
        profile(world.config)
    assert str(again.value) == str(first.value)
    assert acceptances(world.lake)[1] == accepted
    return str(first.value)


def quantities(reason: str) -> set[str]:
    """Of the table in the reason."""
    lines = reason.splitlines()
    assert lines[1].split() == ["quantity", "then", "now", "by", "value", "bound"]
    return {line.split("  ")[0] for line in lines[2:-2]}


def test_the_first_profile_is_accepted_and_an_unchanged_night_has_nothing_to_do(world: World) -> None:
    first = profile(world.config, run_id="r1")
    assert first.version == 0 and not first.skipped and first.rows_in == DAYS * EVENTS
    (entry,) = acceptances(world.lake)[1]
    assert (entry.profile, entry.who, entry.why, entry.run_id) == (0, "mealrec", "the first profile", "r1")
    again = profile(world.config)
    assert again.skipped and again.version == 0 and world.lake.version(PROFILES) == 0
    assert (again.rows_in, again.rows_out) == (first.rows_in, first.rows_out)


def test_a_usual_new_day_passes_and_is_what_the_next_is_held_against(world: World) -> None:
    profile(world.config)
    world.day(DAYS)
    assert profile(world.config).version == 1
    assert acceptances(world.lake)[1][-1].why == "within the bounds of version 0"
    commit = world.lake.last_commit(PROFILES)
    assert (
        commit is not None
        and f'"interactions": {world.lake.version(INTERACTIONS)}' in commit.metadata["mealrec.inputs"]
    )
    world.day(DAYS + 1)
    profile(world.config)
    assert "version 1" in acceptances(world.lake)[1][-1].why


def test_one_day_of_watch_times_thrice_as_long_stops_the_night_though_all_days_hide_it(world: World) -> None:
    profile(world.config)
    world.day(DAYS, longer=3.0)
    reason = stopped(world)
    moved = quantities(reason)
    assert {"new days: interactions watch_seconds", "new days: interactions watch_ratio"} <= moved
    assert not any(name.startswith("interactions ") for name in moved)
    assert "nothing is trained on it" in reason.splitlines()[0] and 'mealrec profile --accept "why"' in reason


@pytest.mark.parametrize("ahead", [0, 2], ids=["no event of tomorrow", "two of clocks that are wrong"])
def test_a_day_that_has_begun_is_not_held_against_whole_ones(world: World, ahead: int) -> None:
    """Files that end at a midnight west of UTC, or the endpoint's journal of the hours before the night."""

    def begun(day: int) -> None:
        world.day(day, hours=8)
        if ahead:
            write_part(
                world.lake,
                INTERACTIONS,
                part := f"event_date={name_of(day + 1)}/ahead.parquet",
                events(day + 1)[:ahead],
            )
            world.lake.commit_files(INTERACTIONS, [part], MADE, mode="append")

    begun(DAYS)
    profile(world.config)
    for day in (DAYS + 1, DAYS + 2):
        world.day(day - 1)
        begun(day)
        profile(world.config)
    assert [entry.why for entry in acceptances(world.lake)[1]][1:] == [
        f"within the bounds of version {n}" for n in (0, 1)
    ]


def test_the_rest_of_a_day_that_had_begun_is_looked_at_when_it_is_over(world: World) -> None:
    world.day(DAYS, hours=8)
    profile(world.config)
    world.day(DAYS, longer=3.0)
    world.day(DAYS + 1, hours=8)
    assert "new days: interactions watch_seconds" in quantities(stopped(world))


def test_an_event_of_years_to_come_hides_no_new_day(world: World) -> None:
    """Where no rule keeps it out: it would be the last day for ever."""
    far = 73 * 365  # days, in 2098
    write_part(world.lake, INTERACTIONS, part := f"event_date={name_of(far)}/far.parquet", events(far)[:1])
    world.lake.commit_files(INTERACTIONS, [part], MADE, mode="append")
    profile(world.config)
    world.day(DAYS, longer=3.0)
    assert "new days: interactions watch_seconds" in quantities(stopped(world))


def test_the_last_day_of_a_simulated_platform_is_over(tmp_path: Path) -> None:
    """So the demo's second day is held against its first week; nobody begins a session there after 22:48."""
    hours = {name_of(day): np.zeros(24, dtype=np.int64) for day in range(7)}
    write_logs(7, plan_videos(7, 24, 7, 0), plan_viewers(7, 80), 7, tmp_path, outage=False)
    for path in tmp_path.iterdir():
        for line in path.read_text().splitlines():
            hour = re.search(r'"timestamp": (\d{13})\b', line)
            day, hour_of_day = divmod((int(hour[1]) - BEGAN_MS) // 3_600_000, 24) if hour else (-1, 0)
            if 0 <= day < 7:
                hours[name_of(day)][hour_of_day] += 1
    assert not hours[name_of(6)][23] and measuring.over(hours) == list(hours)


def test_a_log_that_dries_up_stops_the_night_once_its_day_must_be_over(world: World) -> None:
    profile(world.config)
    world.day(DAYS, hours=1)
    profile(world.config)  # as it looks, the day has only begun
    world.day(DAYS + 1, hours=1)
    assert "new days: rows interactions_a_day" in quantities(stopped(world))


def test_a_log_of_some_hours_is_a_first_profile_that_the_next_day_may_follow(tmp_path: Path) -> None:
    config = RunConfig(lake=str(tmp_path / "lake"))
    world = World(Lake(config.lake), config)
    one = {"session_position": 0}
    world.day(0, hours=8, **one)
    world.rest()
    profile(config)
    world.day(0, hours=24, **one)
    world.day(1, hours=8, **one)
    profile(config)
    assert len(acceptances(world.lake)[1]) == 2


def test_a_day_is_over_when_events_came_in_its_last_usual_hour_or_later() -> None:
    def days(*last: dict[int, int], usual: tuple[int, int] = (0, 24)) -> int:
        """How many of the last days are not over, after a week whose days have events in these hours."""
        hours = [np.array([100 * (usual[0] <= hour < usual[1]) for hour in range(24)]) for _ in range(7)]
        hours += [np.array([of.get(hour, 0) for hour in range(24)]) for of in last]
        return len(hours) - len(measuring.over({name_of(day): rows for day, rows in enumerate(hours)}))

    assert days() == 0
    assert days(dict.fromkeys(range(23), 100)) == 1, "the last hour is not there yet: one east of UTC"
    assert days(dict.fromkeys(range(24), 100)) == 0
    assert days(dict.fromkeys(range(20), 100), usual=(5, 20)) == 0, "nobody watches after eight"
    assert days(dict.fromkeys(range(8), 100), {3: 5}) == 2, "five events of wrong clocks"
    assert days(dict.fromkeys(range(8), 100), {0: 100}) == 1
    assert days(dict.fromkeys(range(8), 100), {3: 5}, {3: 5}) == 2, "two days at most"
    assert measuring.over({name_of(0): np.full(24, 9)}) == [name_of(0)]
    assert measuring.over({name_of(0): np.eye(24, dtype=int)[3]}) == measuring.over({}) == []


def test_all_watch_times_thrice_as_long_stop_it(world: World) -> None:
    profile(world.config)
    for day in range(DAYS):
        world.day(day, longer=3.0)
    assert quantities(stopped(world)) == {
        "interactions watch_seconds",
        "interactions watch_ratio",
        "interactions positive",
    }


def test_a_column_that_became_null_stops_it(world: World) -> None:
    profile(world.config)
    world.day(DAYS, without="device")
    reason = stopped(world)
    assert quantities(reason) == {"new days: interactions null_device"}
    assert "0.00%" in reason and "100.00%" in reason


def test_half_of_the_viewers_gone_stops_it(world: World) -> None:
    profile(world.config)
    for day in range(DAYS):
        world.day(day, viewers=VIEWERS // 2)
    world.rest(viewers=VIEWERS // 2)
    moved = quantities(stopped(world))
    assert {"rows viewers", "rows interactions", "rows sequences"} <= moved


@pytest.mark.parametrize(
    ("feature", "moved"),
    [
        ({"absent": ["audio:no_audio_stream"]}, "features without_audio"),
        ({"duration_ms": None}, "features null_duration_ms"),
    ],
)
def test_features_that_are_absent_stop_it(world: World, feature: dict[str, Any], moved: str) -> None:
    profile(world.config)
    world.rest(**feature)
    assert moved in quantities(stopped(world))


def test_a_reason_lets_it_go_on_and_is_kept(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    profile(world.config)
    world.day(DAYS, longer=3.0)

    def call(*more: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["mealrec", "profile", "--preset", "demo", "--lake", world.config.lake, *more])
        with pytest.raises(SystemExit) as done:
            main()
        return done.value.code

    assert call() == 1
    assert "new days: interactions watch_seconds" in capsys.readouterr().err
    assert call("--accept", " ") == 2
    assert not call("--accept", "the app counts loops now")
    entry = acceptances(world.lake)[1][-1]
    assert (entry.profile, entry.why) == (1, "the app counts loops now") and entry.who and entry.who != "mealrec"
    assert entry.when.endswith("+00:00")
    assert not call() and profile(world.config).skipped


def test_wider_bounds_judge_the_same_measurement_again(world: World) -> None:
    profile(world.config)
    world.day(DAYS, without="device")
    stopped(world)
    wide = {"profile": {"share": {"warn": 0.5, "alarm": 1.1}}}
    config = RunConfig.model_validate(world.config.model_dump() | wide)
    assert profile(config).version == 1 and world.lake.version(PROFILES) == 1


def test_of_two_that_accept_at_once_one_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = gate.measure

    def slow(*given: Any) -> Any:
        monkeypatch.setattr(gate, "measure", real)
        found = real(*given)
        gate._accept(world.lake, -1, gate.Acceptance(7, "somebody", "now", "faster"))
        return found

    monkeypatch.setattr(gate, "measure", slow)
    with pytest.raises(LostRace):
        profile(world.config)
    assert [entry.who for entry in acceptances(world.lake)[1]] == ["somebody"]


def test_what_a_log_says_is_escaped_on_the_page(world: World) -> None:
    hostile = "<script>alert(1)</script>"
    profile(world.config)
    world.day(DAYS, device=hostile)
    world.day(DAYS + 1, device="$\\frac{1}{$ & \x00\u202e" + "x" * 500)
    stopped(world)
    page = (world.lake.work / "profile" / "profile.html").read_text()
    assert "<script" not in page and "\x00" not in page and "x" * 100 not in page.split("<h2>All days")[1]
    assert "&lt;script&gt;alert" in page and "frac{1}" in page
    assert page.count("<svg") == 17 and "new days: interactions device" in page


def test_every_figure_of_a_profile_is_that_of_the_rows(world: World) -> None:
    rows = [row for day in range(DAYS) for row in events(day)]
    versions = {table: world.lake.at(table).version() for table in measuring.PROFILED}
    measured = measuring.measure(world.lake, versions, name_of(DAYS - 2))
    found = {(m.group, m.name): m for m in measured if m.part == "whole"}
    for part, days in (("week", 7), ("recent", 1)):
        own = {(m.group, m.name): m.counts for m in measured if m.part == part}
        assert own["rows", "days"] == (days,) and own["rows", "interactions"] == (days * EVENTS,)
        assert own[INTERACTIONS, "null_session_id"] == (days * EVENTS, days * EVENTS)
    assert found["rows", "interactions"].counts == (len(rows),) and found["rows", "viewers"].counts == (VIEWERS,)
    assert [found["rows", name].counts[0] for name in ("days", "videos", "sequences", "features")] == [
        DAYS,
        VIDEOS,
        VIEWERS,
        VIDEOS,
    ]
    times = [row["timestamp_ms"] for row in rows]
    assert found[INTERACTIONS, "time"].counts == (min(times), max(times))
    hours = found[INTERACTIONS, "hour_of_day"]
    assert hours.counts == tuple(sum(t // 3_600_000 % 24 == hour for t in times) for hour in range(24))
    seconds = found[INTERACTIONS, "watch_seconds"]
    five = seconds.labels.index("5 to 8")
    assert seconds.counts[five] == sum(5000 <= row["watch_ms"] < 8000 for row in rows)
    assert found[INTERACTIONS, "positive"].counts == (sum(row["is_positive"] for row in rows), len(rows))
    assert dict(zip(found[INTERACTIONS, "device"].labels, found[INTERACTIONS, "device"].counts, strict=True)) == {
        "ios": sum(row["device"] == "ios" for row in rows),
        "web": sum(row["device"] == "web" for row in rows),
    }
    each = found[INTERACTIONS, "events_a_viewer"]
    assert each.counts[each.labels.index("101 to 201")] == VIEWERS  # 120 each
    assert found[QUARANTINE, "sessionize"].counts == (12, 12 + len(rows))
    assert found[SEQUENCES, "history_length"].counts[:3] == (0, 0, 7)  # lengths 3, 12, ... of 60 viewers
    watched = sorted((500 // (n + 1) for n in range(VIDEOS)), reverse=True)
    assert found[ITEMS, "popularity"].counts[0] == sum(watched[:3]) and sum(found[ITEMS, "popularity"].counts) == sum(
        watched
    )
    assert found[INTERACTIONS, "null_session_id"].counts == (len(rows), len(rows))
    assert found[INTERACTIONS, "null_watch_ms"].counts == (0, len(rows))
    assert found[FEATURES, "null_visual"].counts == (VIDEOS, VIDEOS)
