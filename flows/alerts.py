"""Alerts as Prefect automations that call a webhook: a run ended badly or is late, no good night for too long, data that moved.

    MEALREC_ALERT_WEBHOOK=https://hooks.example/... python -m flows.alerts

makes or renews them on the server of PREFECT_API_URL. The address is a secret (it is kept in a Prefect block, never logged);
the message is JSON with the one field `text`, which Slack and its like understand. The server itself calls: it tells also when
every worker is dead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.actions import CallWebhook
from pydantic import SecretStr

from mealrec.stages.summary import StageSummary

WEBHOOK = "MEALREC_ALERT_WEBHOOK"
BLOCK = "mealrec-alerts"
NIGHTLY = "nightly"
A_NIGHT = timedelta(hours=26)  # a day, and two hours for a night that runs long
DRIFTED = "mealrec.drift.alarm"  # an event of our own: Prefect knows of runs alone
OURS = {"prefect.resource.role": "flow", "prefect.resource.name": "mealrec-*"}
MESSAGE = '{"text": {{ (automation.name ~ ": " ~ automation.description ~ about) | tojson }}}'
ABOUT_A_RUN = '{% set about = " Run: " ~ flow_run.name ~ ", " ~ flow_run.state.name ~ "." %}'
ABOUT_NOTHING = '{% set about = "" %}'
ABOUT_DRIFT = '{% set about = " " ~ event.payload.moved ~ "." %}'


def automations(webhook: UUID, a_night: timedelta = A_NIGHT) -> list[AutomationCore]:
    """What is watched: states of our flows' runs, and the absence of a completed night."""
    about_a_run = CallWebhook(block_document_id=webhook, payload=ABOUT_A_RUN + MESSAGE)
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    return [
        AutomationCore(
            name="mealrec: a run ended badly",
            description="its artifact mealrec-failure says in which stage, why and what to do.",
            trigger=EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
                match=runs,
                match_related=OURS,
            ),
            actions=[about_a_run],
        ),
        AutomationCore(
            name="mealrec: a run is late",
            description="no worker took it in time. Is one running?",
            trigger=EventTrigger(expect={"prefect.flow-run.Late"}, match=runs, match_related=OURS),
            actions=[about_a_run],
        ),
        AutomationCore(
            name="mealrec: no good night",
            description=f"no run of the deployment {NIGHTLY} has completed for {a_night / timedelta(hours=1):g} hours.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                expect={"prefect.flow-run.Completed"},
                match=runs,
                match_related={"prefect.resource.role": "deployment", "prefect.resource.name": NIGHTLY},
                within=a_night,
            ),
            actions=[CallWebhook(block_document_id=webhook, payload=ABOUT_NOTHING + MESSAGE)],
        ),
        AutomationCore(
            name="mealrec: the data moved",
            description="what flows in is not what the champion was trained on.",
            trigger=EventTrigger(expect={DRIFTED}),
            actions=[CallWebhook(block_document_id=webhook, payload=ABOUT_DRIFT + MESSAGE)],
        ),
    ]


def tell(drift: StageSummary) -> None:
    """Let the server know that the stage has newly found something in alarm."""
    if drift.skipped or drift.details["state"] != "alarm":
        return
    found = json.loads(Path(drift.details["drift"]).read_text())
    moved = "; ".join(f"{q['group']} {q['name']}: {q['moved']}" for q in found["quantities"] if q["state"] == "alarm")
    resource = {
        "prefect.resource.id": "mealrec.drift",
        "prefect.resource.name": f"champion {drift.details['champion']}",
    }
    emit_event(DRIFTED, resource=resource, payload={"moved": moved})


def install(url: str, a_night: timedelta = A_NIGHT) -> list[str]:
    """Make the automations, or renew those that are there; returns their names."""
    webhook = Webhook(method="POST", url=SecretStr(url)).save(BLOCK, overwrite=True)
    wanted = automations(webhook, a_night)
    with get_client(sync_client=True) as client:
        for automation in wanted:
            there = client.read_automations_by_name(automation.name)
            for old in there:
                client.delete_automation(old.id)
            client.create_automation(automation)
    return [automation.name for automation in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--hours", type=float, default=A_NIGHT / timedelta(hours=1), help="longest time without a night"
    )
    given = parser.parse_args()
    url = os.environ.get(WEBHOOK)
    if not url:
        print(f"error: set {WEBHOOK} to the address that takes the alerts", file=sys.stderr)
        sys.exit(2)
    for name in install(url, timedelta(hours=given.hours)):
        print(name)


if __name__ == "__main__":
    main()
