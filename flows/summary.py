"""summary.json of a run, and the same as artifacts for the Prefect UI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from mealrec.config import RunConfig
from mealrec.lake import Lake
from mealrec.sources.landing import locate
from mealrec.stages.summary import StageSummary

SUMMARY = "summary.json"


def summarise(config: RunConfig, stages: dict[str, StageSummary], seconds: float) -> dict[str, Any]:
    """The contract of summary.json, plus what a simulated platform lets us check."""
    evaluated, promoted = stages["evaluate"].details, stages["promote"].details
    out: dict[str, Any] = {
        "stages": {name: s.model_dump(exclude={"stage"}) for name, s in stages.items()},
        "metrics": evaluated["metrics"],
        "salience": evaluated["salience"],
        "model": promoted["model"],
        "report": evaluated["report"],
        "seconds": round(seconds, 2),
    }
    truth = _against_truth(config, stages)
    return out | ({"truth": truth} if truth else {})


def write(config: RunConfig, summary: dict[str, Any]) -> Path:
    """Beside the tables of a local lake, in the work folder of a remote one."""
    lake = Lake(config.lake, config.work)
    folder = Path(lake.root) if lake.is_local else lake.work
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{SUMMARY}.part"
    temporary.write_text(json.dumps(summary, indent=1))
    return temporary.rename(folder / SUMMARY)


def publish(config: RunConfig, summary: dict[str, Any]) -> None:
    """Artifacts of the flow run: stages and gate, metrics against the champion, links to the report page and MLflow."""
    _publish_stages(summary)
    _publish_metrics(config, summary)
    create_link_artifact(Path(summary["report"]).as_uri(), key="mealrec-report", link_text="Evaluation report")
    server = config.registry.tracking_uri or ""
    if server.startswith(("http://", "https://")):
        from mealrec.redaction import redact
        from mealrec.registry.tracking import Tracker

        experiment = Tracker(config.registry, Lake(config.lake, config.work).work).experiment_id
        run = summary["stages"]["train"]["details"]["mlflow_run"]
        link = f"{redact(server)}/#/experiments/{experiment}/runs/{run}"
        create_link_artifact(link, key="mealrec-mlflow-run", link_text="Training run in MLflow")


def _publish_metrics(config: RunConfig, summary: dict[str, Any]) -> None:
    """One row a system; the champion's (of the one before, where this model is the champion now) are by its own report."""
    from mealrec.stages.promote import rival_metrics  # imported when needed: a flow's import stays cheap

    version = summary["model"]["version"]
    systems = {f"this model, version {version}": summary["metrics"]["test"]["mealrec"]}
    rival = rival_metrics(config, version)
    if rival is not None:
        systems[f"champion to beat, version {rival[0]}"] = rival[1]
    systems |= {name: values for name, values in summary["metrics"]["test"].items() if name != "mealrec"}
    shown = ("hr@10", "ndcg@10", "mrr@10")
    rows = [{"system": name} | {m: round(values[m], 4) for m in shown} for name, values in systems.items()]
    create_table_artifact(table=rows, key="mealrec-metrics", description="Test metrics against the champion")


def _publish_stages(summary: dict[str, Any]) -> None:
    rows = ["| stage | rows in | rows out | quarantined | seconds | |", "|---|---:|---:|---|---:|---|"]
    for name, s in summary["stages"].items():
        rejected = ", ".join(f"{reason} {count}" for reason, count in s["quarantined"].items()) or "-"
        state = "up to date" if s["skipped"] else ""
        rows.append(f"| {name} | {s['rows_in']} | {s['rows_out']} | {rejected} | {s['seconds']:.1f} | {state} |")
    model = summary["model"]
    verdict = "passed" if model["gate"]["passed"] else "refused"
    rows += ["", f"Model `{model['name']}` version {model['version']}, aliases {model['aliases']}; gate {verdict}:"]
    rows += [f"- {reason}" for reason in model["gate"]["reasons"]]
    create_markdown_artifact("\n".join(rows), key="mealrec-summary", description="Stages and the gate's decision")


def _against_truth(config: RunConfig, stages: dict[str, StageSummary]) -> dict[str, Any] | None:
    """Quarantine counts beside those that the simulator planted; None where the source is not simulated."""
    if config.source.kind != "simulated":
        return None
    from mealrec.sources.simulated.truth import Truth

    truth = Truth.load(locate(config).root)
    found = {name: stages[name].quarantined for name in truth.quarantine}
    absent = {k: stages["extract"].details["absent"].get(k, 0) for k in truth.absent}
    return {
        "planted": truth.quarantine,
        "found": found,
        "absent_planted": truth.absent,
        "absent_found": absent,
        "equal": found == truth.quarantine and absent == truth.absent,
    }
