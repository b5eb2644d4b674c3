"""Generated logs of several viewers, and what has to become of each of their rows, told in twenty lines of Python."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import strategies as st

MINUTE, DAY = 60_000, 86_400_000
EVENING = 1_767_654_000_000  # 2026-01-05T23:00:00Z: an hour before a midnight
GAP_MINUTES = 30
VIDEOS = ("v1", "v2")
# silences around the gap, none at all, and over whole days; few ids, videos and types, so that copies of all kinds occur
SILENCES = st.sampled_from([0, 0, 1, GAP_MINUTES * MINUTE, GAP_MINUTES * MINUTE + 1, 20 * MINUTE, DAY, 2 * DAY])
STEPS = st.tuples(
    SILENCES | st.integers(0, 60 * MINUTE),
    st.integers(0, 9),
    st.sampled_from(VIDEOS),
    st.sampled_from(("like", "share")),
)
Row = dict[str, Any]
Files = list[list[Row]]


@st.composite
def logs(draw: st.DrawFn, *, viewers: int, files: int, fewest: int = 1, longest: int = 12) -> Files:
    """Rows of so many viewers, at least `fewest`, out of order, dealt to files."""
    out: Files = [[] for _ in range(files)]
    rows = []
    for viewer, steps in enumerate(
        draw(st.lists(st.lists(STEPS, min_size=1, max_size=longest), min_size=fewest, max_size=viewers))
    ):
        at = EVENING
        for silence, number, video, kind in steps:
            at += silence
            what = {"event_id": f"e{number}", "user_id": f"u{viewer}", "video_id": video}
            rows.append(what | {"event_type": kind, "timestamp": at})
    shuffled = random.Random(draw(st.integers(0, 2**31)))
    shuffled.shuffle(rows)
    for row in rows:
        out[shuffled.randrange(files)].append(row)
    return out


def told(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("user_id", "timestamp", "event_id", "video_id", "event_type"))


def oracle(files: Files) -> tuple[Counter[Any], Counter[Any]]:
    """Rows with their session's start and their place there; rejected rows with their reason."""
    good, bad = Counter[Any](), Counter[Any]()
    placed = [(row, file, line) for file, rows in enumerate(files) for line, row in enumerate(rows)]
    for viewer in {row["user_id"] for row, _, _ in placed}:
        own = [p for p in placed if p[0]["user_id"] == viewer]
        own.sort(key=lambda p: (p[0]["timestamp"], p[0]["event_id"], p[1], p[2]))
        ids, contents = set(), set()
        last = start = position = -DAY
        for row, _, _ in own:
            at, known = row["timestamp"], (row["timestamp"] // DAY, row["event_id"])
            content = (at, row["video_id"], row["event_type"])
            if known in ids or content in contents:
                bad[told(row), "duplicate_event" if known in ids else "duplicate_content"] += 1
                ids.add(known)
                continue
            ids.add(known)
            contents.add(content)
            start, position = (at, 0) if at - last > GAP_MINUTES * MINUTE else (start, position + 1)
            good[told(row), start, position] += 1
            last = at
    return good, bad


def found_good(rows: list[Row]) -> Counter[Any]:
    """Rows of `interactions` as the oracle tells them."""
    return Counter(
        (told(r | {"timestamp": r["timestamp_ms"]}), r["session_start_ms"], r["session_position"]) for r in rows
    )


def found_bad(rows: list[Row], parse: Any) -> Counter[Any]:
    """Rows of `quarantine` as the oracle tells them."""
    return Counter((told(parse(r["payload"])), r["reason"]) for r in rows)
