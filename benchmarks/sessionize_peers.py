"""The work of the sessionize stage in DuckDB and in Polars: validate, both kinds of copies, sessions, two outputs.

    python benchmarks/sessionize_peers.py duckdb LANDING OUT parquet

Written as one would write it there, each with two threads and its own defaults otherwise. Polars has no SHA-256: its session
ids are its own hash, which is cheaper.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

REASONS = """case
    when coalesce(trim(event_id), '') = '' or coalesce(trim(user_id), '') = '' or coalesce(trim(video_id), '') = ''
        or timestamp is null then 'missing_key'
    when timestamp < 1262304000000 then 'impossible_time'
    when timestamp >= 4102444800000 then 'future'
    when watch_ms < 0 then 'negative_watch'
    when duration_ms > 0 and watch_ms / duration_ms > 20 then 'watch_too_long'
    when duration_ms <= 0 then 'bad_duration'
    when event_type not in ('view', 'like', 'share', 'favorite', 'comment', 'interaction') then 'unknown_event_type'
    when video_id not in (select video_id from known) then 'unknown_video' end"""

LABELLED = """
create temp table labelled as
with checked as (select *, {reasons} as reason from {source}),
by_id as (select *, row_number() over (
    partition by user_id, event_id, timestamp // 86400000, reason is null order by timestamp, filename) as copy from checked),
by_content as (select *, row_number() over (
    partition by user_id, timestamp, video_id, event_type, reason is null and copy = 1 order by event_id) as again from by_id),
judged as (select * exclude (reason, copy, again), case when reason is not null then reason
    when copy > 1 then 'duplicate_event' when again > 1 then 'duplicate_content' end as reason from by_content),
silence as (select *, timestamp - lag(timestamp) over w as pause, row_number() over w as place from judged
    window w as (partition by user_id, reason is null order by timestamp, event_id)),
anchored as (select *, max(case when pause is null or pause > 1800000 then place end) over (
    partition by user_id, reason is null order by timestamp, event_id rows unbounded preceding) as anchor from silence)
select *, first_value(timestamp) over (
    partition by user_id, reason is null, anchor order by timestamp, event_id) as start_ms from anchored
"""

GOOD = """
copy (select event_id, user_id, video_id, event_type, timestamp as timestamp_ms,
    substr(sha256(user_id || '|' || start_ms), 1, 16) as session_id, start_ms as session_start_ms,
    place - anchor as session_position, watch_ms, duration_ms, watch_ms / duration_ms as watch_ratio,
    event_type in ('like', 'share', 'favorite', 'interaction')
        or (event_type = 'view' and watch_ms / duration_ms >= 0.3) as is_positive,
    device, strftime(make_timestamp(timestamp * 1000), '%Y-%m-%d') as event_date
from labelled where reason is null) to '{out}/interactions' (format parquet, partition_by (event_date), compression zstd)
"""


def duckdb(landing: Path, out: Path, kind: str) -> dict[str, int]:
    import duckdb as engine

    read = {"parquet": "read_parquet", "csv": "read_csv", "jsonl": "read_json"}[kind]
    db = engine.connect(config={"threads": 2, "preserve_insertion_order": False, "temp_directory": str(out / "spill")})
    db.execute(f"create temp table known as select video_id from read_json('{landing}/catalogue.jsonl')")
    source = f"{read}('{landing}/events/*.{kind}', filename=true)"
    db.execute(LABELLED.format(reasons=REASONS, source=source))
    db.execute(GOOD.format(out=out))
    db.execute(f"copy (select * from labelled where reason is not null) to '{out}/quarantine.parquet' (format parquet)")
    found = db.execute(
        "select count(*) filter (reason is null), count(*) filter (reason is null and place = anchor) from labelled"
    ).fetchone()
    assert found is not None
    return {"rows_out": int(found[0]), "sessions": int(found[1])}


def polars(landing: Path, out: Path, kind: str) -> dict[str, int]:
    os.environ["POLARS_MAX_THREADS"] = "2"
    import polars as pl

    scan = {"parquet": pl.scan_parquet, "csv": pl.scan_csv, "jsonl": pl.scan_ndjson}[kind]
    known = pl.scan_ndjson(landing / "catalogue.jsonl").with_columns(known=True)
    rows = scan(f"{landing}/events/*.{kind}", include_file_paths="filename").join(known, on="video_id", how="left")
    ratio = pl.col("watch_ms") / pl.col("duration_ms")
    empty = [pl.col(n).str.strip_chars().fill_null("") == "" for n in ("event_id", "user_id", "video_id")]
    types = ["view", "like", "share", "favorite", "comment", "interaction"]
    verdicts = {
        "missing_key": pl.any_horizontal(*empty, pl.col("timestamp").is_null()),
        "impossible_time": pl.col("timestamp") < 1262304000000,
        "future": pl.col("timestamp") >= 4102444800000,
        "negative_watch": pl.col("watch_ms") < 0,
        "watch_too_long": (pl.col("duration_ms") > 0) & (ratio > 20),
        "bad_duration": pl.col("duration_ms") <= 0,
        "unknown_event_type": ~pl.col("event_type").is_in(types).fill_null(False),
        "unknown_video": pl.col("known").is_null(),
    }
    reason = pl.coalesce(*[pl.when(bad).then(pl.lit(name)) for name, bad in verdicts.items()])
    judged = rows.with_columns(reason=reason, day=pl.col("timestamp") // 86_400_000).collect(engine="streaming")
    ordered = judged.filter(pl.col("reason").is_null()).sort("user_id", "timestamp", "event_id", "filename")
    once = ordered.unique(["user_id", "event_id", "day"], keep="first", maintain_order=True)
    kept = once.unique(["user_id", "timestamp", "video_id", "event_type"], keep="first", maintain_order=True)
    new = (pl.col("user_id") != pl.col("user_id").shift()) | (
        pl.col("timestamp") - pl.col("timestamp").shift() > 1_800_000
    )
    place = pl.int_range(pl.len())
    kept = kept.with_columns(new=new.fill_null(True), place=place).with_columns(
        session_start_ms=pl.when("new").then("timestamp").forward_fill(),
        session_position=pl.col("place") - pl.when("new").then("place").forward_fill(),
    )
    liked = pl.col("event_type").is_in(["like", "share", "favorite", "interaction"])
    final = kept.select(
        "event_id", "user_id", "video_id", "event_type", pl.col("timestamp").alias("timestamp_ms"),
        pl.concat_str("user_id", "session_start_ms", separator="|").hash().alias("session_id"),
        "session_start_ms", "session_position", "watch_ms", "duration_ms", ratio.alias("watch_ratio"),
        (liked | ((pl.col("event_type") == "view") & (ratio >= 0.3))).alias("is_positive"), "device",
        pl.from_epoch("timestamp", time_unit="ms").dt.strftime("%Y-%m-%d").alias("event_date"),
    )  # fmt: skip
    final.write_parquet(out / "interactions", partition_by="event_date")
    place_of = ["event_id", "filename", "timestamp"]
    copies = ordered.join(kept.select(place_of), on=place_of, how="anti")
    pl.concat([judged.filter(pl.col("reason").is_not_null()), copies]).write_parquet(out / "quarantine.parquet")
    return {"rows_out": len(final), "sessions": int(final["session_position"].eq(0).sum())}


if __name__ == "__main__":
    name, landing, out, kind = sys.argv[1:]
    Path(out).mkdir(parents=True)
    print(json.dumps({"duckdb": duckdb, "polars": polars}[name](Path(landing), Path(out), kind)))
