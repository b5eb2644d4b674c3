"""Secrets that a test gives to what it runs, to look for them in everything that is left behind."""

from __future__ import annotations

from pathlib import Path

CANARY = "c4n4ry-Pa55w0rd"
SECRETS = {
    name: f"{CANARY}-{number}"
    for number, name in enumerate(
        (
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "PGPASSWORD",
            "MLFLOW_TRACKING_PASSWORD",
            "PREFECT_API_KEY",
            "RAY_AUTH_TOKEN",
            "MEALREC_SERVE_TOKEN",
        )
    )
}


def found_in(folder: Path) -> list[str]:
    """Files below a folder that hold the canary, in their bytes: logs, databases, JSON, Delta's commits."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
