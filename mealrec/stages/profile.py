"""Stage `profile`: the gate between tables and training. What the tables hold, beside the profile that was accepted last.

A profile is a version of the table `profiles`; which of them training may go on from, who said so, when and why is a row of
`acceptances`, appended by compare-and-swap. The first profile is accepted, and so is one within the bounds.
"""

from __future__ import annotations

import getpass
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from mealrec import __version__
from mealrec.config import RunConfig, digest
from mealrec.data.profile import Measured, last_day, measure, pinned, read, to_table
from mealrec.evaluation.drift import Quantity
from mealrec.evaluation.profile import compare
from mealrec.evaluation.profile_page import ProfileData, render
from mealrec.lake import DIGEST_KEY, SUMMARY_KEY, Commit, Lake, Provenance
from mealrec.schema import ACCEPTANCES, INTERACTIONS, PROFILES, SCHEMAS
from mealrec.stages.summary import StageError, StageSummary

STAGE, FORM, PAGE = "profile", 2, "profile.html"  # FORM: of the profiles, a newer one measures the same tables again
NAMED = 3  # quantities in the first line of the reason
log = logging.getLogger("mealrec.profile")


@dataclass(frozen=True)
class Acceptance:
    """Who let training go on from a profile, when and why."""

    profile: int
    who: str
    when: str
    why: str
    run_id: str = ""


def profile(config: RunConfig, *, run_id: str = "", accept: str | None = None) -> StageSummary:
    """Up to date when the accepted profile is of these table versions. Else the tables are measured (or a measurement of these
    versions is taken again), compared, and accepted when nothing is in alarm or when `accept` says why.

    Raises StageError with the table of what moved where something is in alarm: nothing is trained then. Cost: see
    mealrec.data.profile.
    """
    began = time.monotonic()
    lake = Lake(config.lake, config.work)
    versions = pinned(lake)
    base, accepted = acceptances(lake)
    last = accepted[-1] if accepted else None
    held = _commit(lake, last.profile) if last is not None else None
    if held is not None and held.metadata[DIGEST_KEY].startswith(_digest(versions)):
        log.info("up to date: %s version %d is accepted", PROFILES, held.version)
        return StageSummary.stored(json.loads(held.metadata[SUMMARY_KEY]), held.version)
    then = read(lake, last.profile) if last is not None else None
    version, now, summary = _measured(lake, versions, then, last, run_id, began)
    quantities = [] if then is None else compare(then, now, config.profile)
    page = lake.folder("profile") / PAGE
    _write_page(page, versions, version, last, then, now, quantities)
    _say(quantities)
    alarms = [q for q in quantities if q.state == "alarm"]
    if alarms and accept is None:
        assert last is not None
        raise StageError(refusal(alarms, last, page))
    why = accept or ("the first profile" if last is None else f"within the bounds of version {last.profile}")
    who = getpass.getuser() if accept else "mealrec"
    _accept(lake, base, Acceptance(version, who, datetime.now(UTC).isoformat(timespec="seconds"), why, run_id))
    log.info("accepted %s version %d: %s", PROFILES, version, why)
    return summary.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


def acceptances(lake: Lake) -> tuple[int, list[Acceptance]]:
    """Version of the table (-1: none yet) and its rows, oldest first."""
    newest = lake.version(ACCEPTANCES)
    if newest is None:
        return -1, []
    rows = lake.read(ACCEPTANCES, newest).to_pylist()
    rows.sort(key=lambda row: row.pop("sequence"))
    return newest, [Acceptance(**row) for row in rows]


def refusal(alarms: Sequence[Quantity], last: Acceptance, page: Path) -> str:
    """What moved, as a table, and what to do. The first line stands by itself."""
    named = "; ".join(f"{q.group} {q.name} {q.moved}" for q in alarms[:NAMED])
    more = f" and {len(alarms) - NAMED} more" if len(alarms) > NAMED else ""
    head = ("quantity", "then", "now", "by", "value", "bound")
    rows = [(f"{q.group} {q.name}", q.then, q.now, q.measure, f"{q.value:.3f}", f"{q.alarm:g}") for q in alarms]
    widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]
    return "\n".join(
        [
            f"the data moved too far from profile version {last.profile}, nothing is trained on it: {named}{more}",
            *table,
            f"Version {last.profile} was accepted {last.when} by {last.who}: {last.why}. Page: {page}",
            'If it is right as it is: mealrec profile --accept "why" (same preset and lake). Bounds: profile.*',
        ]
    )


def _measured(
    lake: Lake,
    versions: dict[str, int],
    then: Sequence[Measured] | None,
    last: Acceptance | None,
    run_id: str,
    began: float,
) -> tuple[int, list[Measured], StageSummary]:
    """The profile of these table versions beside the accepted one, taken from the lake where it was made before."""
    made_from = f"{_digest(versions)}-{last.profile if last is not None else 'first'}"
    done = lake.committed(PROFILES, STAGE, made_from)
    if done is not None:
        stored = StageSummary.stored(json.loads(done.metadata[SUMMARY_KEY]), done.version)
        return done.version, read(lake, done.version), stored.model_copy(update={"skipped": False})
    claim = lake.claim(STAGE, run_id, PROFILES)
    now = measure(lake, versions, last_day(then) if then is not None else None)
    summary = StageSummary(
        stage=STAGE,
        seconds=round(time.monotonic() - began, 3),
        rows_in=next(one.counts[0] for one in now if (one.part, one.name) == ("whole", INTERACTIONS)),
        rows_out=len(now),
        table=PROFILES,
        details={"compared_with": last.profile if last is not None else None, "page": str(lake.folder(STAGE) / PAGE)},
    )
    made = Provenance(STAGE, made_from, run_id, versions, summary.counts(), claim)
    version = lake.write(PROFILES, to_table(now), made)
    return version, now, summary.model_copy(update={"version": version})


def _digest(versions: dict[str, int]) -> str:
    return digest(STAGE, FORM, __version__, versions)


def _commit(lake: Lake, version: int) -> Commit:
    return next(commit for commit in lake.history(PROFILES) if commit.version == version)


def _accept(lake: Lake, base: int, acceptance: Acceptance) -> None:
    """Raises mealrec.lake.LostRace when somebody else accepted a profile meanwhile."""
    rows = pa.Table.from_pylist([asdict(acceptance) | {"sequence": base + 1}], schema=SCHEMAS[ACCEPTANCES])
    lake.append_at(ACCEPTANCES, base, rows, Provenance(STAGE, str(acceptance.profile), acceptance.run_id))


def _say(quantities: Sequence[Quantity]) -> None:
    for one in quantities:
        if one.state != "ok":
            log.warning(
                "%s: %s %s moved, %s %.3f (%s)", one.state, one.group, one.name, one.measure, one.value, one.moved
            )


def _write_page(
    page: Path,
    versions: dict[str, int],
    version: int,
    last: Acceptance | None,
    then: Sequence[Measured] | None,
    now: Sequence[Measured],
    quantities: Sequence[Quantity],
) -> None:
    accepted = asdict(last) if last is not None else None
    render(ProfileData(version, versions, accepted, then or [], now, quantities), page)
