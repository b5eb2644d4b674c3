"""Fencing: a run of a stage that was overtaken by a newer run of it can't commit, however late it wakes up.

A stage that has work to do first takes a claim: a number, counted up for this stage in the lake, kept as one of Delta's own
application transactions in the table `_claims` (which has no rows). Every commit is bound to it in three ways: the claim must
still be the stage's newest, the stage must not have committed to a table that decides since it was taken, and the commit
carries the number as an application transaction, so that Delta itself refuses a second one prepared on the same version.
No clock, no lease, no heartbeat: a stopped process may sleep for a week. Cost: one small commit a stage that has work.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import create_table_with_add_actions

CLAIMS = "_claims"
SCHEMA = pa.schema([("stage", pa.string())])
TRIES = 20
STAGE_KEY, NUMBER_KEY, RUN_KEY = "mealrec.claimed_stage", "mealrec.claim", "mealrec.run_id"
TABLES_KEY = "mealrec.claimed_tables"  # to be committed, comma separated
# Delta would delete the log before a checkpoint that is older than 30 days: nobody could open those versions any more, and what
# an old claim says of itself (`newest`) would be gone
KEEP_LOG = PostCommitHookProperties(cleanup_expired_logs=False)


class Overtaken(RuntimeError):
    """A newer run of the stage has begun, or committed: what this one did must not become visible."""


@dataclass(frozen=True)
class Claim:
    """The right of one run to commit a stage. `bases`: the stage's last claim that each table that decides held then."""

    stage: str
    number: int
    bases: Mapping[str, int | None]

    def to_json(self) -> str:
        """For the argument of a process that commits on the stage's behalf."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Claim:
        return cls(**json.loads(text))

    def transaction(self) -> Transaction:
        return Transaction(self.stage, self.number)


@dataclass(frozen=True)
class Newest:
    """The newest claim of a stage, and the tables that it was taken for."""

    stage: str
    number: int
    run_id: str
    tables: tuple[str, ...]


def take(root: str, stage: str, run_id: str, tables: Sequence[str] = ()) -> int:
    """Count the stage's claims up by one; two runs at the same moment get different numbers."""
    uri = f"{root}/{CLAIMS}"
    for _ in range(TRIES):
        held = DeltaTable(uri) if DeltaTable.is_deltatable(uri) else None
        number = ((held.transaction_version(stage) if held else None) or 0) + 1
        properties = CommitProperties(
            # without it a second one that makes the table would be committed as its next version
            max_commit_retries=0 if held is None else None,
            app_transactions=[Transaction(stage, number)],
            custom_metadata={
                STAGE_KEY: stage,
                NUMBER_KEY: str(number),
                RUN_KEY: run_id,
                TABLES_KEY: ",".join(tables),
            },
        )
        try:
            if held is None:
                schema = DeltaSchema.from_arrow(SCHEMA)
                create_table_with_add_actions(
                    uri,
                    schema,
                    [],
                    mode="error",
                    partition_by=[],
                    commit_properties=properties,
                    post_commithook_properties=KEEP_LOG,
                )
            else:
                held.create_write_transaction(
                    [],
                    mode="append",
                    schema=SCHEMA,
                    partition_by=[],
                    commit_properties=properties,
                    post_commithook_properties=KEEP_LOG,
                )
            return number
        except CommitFailedError:
            continue  # another run claimed the same number first
        except DeltaError:
            if held is not None or not DeltaTable.is_deltatable(uri):
                raise
            continue  # another run made the table first
    raise RuntimeError(f"stage {stage!r} could not be claimed in {TRIES} tries: too many runs begin at once")


def release(root: str, claim: Claim, run_id: str) -> None:
    """Say that the run that holds this claim has nothing to commit: nobody has to wait for it."""
    DeltaTable(f"{root}/{CLAIMS}").create_write_transaction(
        [],
        mode="append",
        schema=SCHEMA,
        partition_by=[],
        commit_properties=CommitProperties(
            custom_metadata={STAGE_KEY: claim.stage, NUMBER_KEY: str(claim.number), RUN_KEY: run_id, TABLES_KEY: ""}
        ),
        post_commithook_properties=KEEP_LOG,
    )


def check(root: str, claim: Claim) -> None:
    """Raises Overtaken, naming the run that took over, when the claim is no longer the stage's newest."""
    claims = DeltaTable(f"{root}/{CLAIMS}")
    newest = claims.transaction_version(claim.stage)
    if newest != claim.number:
        raise Overtaken(
            f"stage {claim.stage!r} was taken over by a newer run{_who(claims, claim.stage, newest)} (claim {newest}, "
            f"this one holds {claim.number}): this one's result does not count, the newer run's stands"
        )


def newest(root: str) -> list[Newest]:
    """Of every stage that ever claimed; one that was released is for no tables. Cost: one read of the claims' log."""
    uri, found = f"{root}/{CLAIMS}", dict[str, Newest]()
    # newest first: of a claim and its release the release
    for entry in DeltaTable(uri).history() if DeltaTable.is_deltatable(uri) else ():
        stage, number = entry.get(STAGE_KEY), int(entry.get(NUMBER_KEY, 0))
        if stage is not None and (stage not in found or number > found[stage].number):
            tables = tuple(name for name in entry.get(TABLES_KEY, "").split(",") if name)
            found[stage] = Newest(stage, number, entry.get(RUN_KEY, ""), tables)
    return list(found.values())


def check_base(table: DeltaTable, name: str, claim: Claim) -> None:
    """Raises Overtaken when the stage has committed to the table since the claim was taken. Not where another table decides:
    what an older run left beside that one is named by no commit of it, and written over."""
    found = table.transaction_version(claim.stage)
    if name in claim.bases and found != claim.bases[name]:
        raise Overtaken(
            f"table {name!r} was committed by another run of stage {claim.stage!r} (claim {found}) after this one "
            f"(claim {claim.number}) had begun: this one's result does not count. Run it again"
        )


def _who(claims: DeltaTable, stage: str, number: int | None) -> str:
    for entry in claims.history():
        if entry.get(STAGE_KEY) == stage and entry.get(NUMBER_KEY) == str(number):
            return f" {entry[RUN_KEY]}" if entry.get(RUN_KEY) else ""
    return ""
