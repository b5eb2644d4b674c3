"""The model card: what a registered version is, from what it was made, how good it is and what it is not for (Mitchell 2019).

A pure function of the evaluation report; the card is the version's description in the registry and an artifact of its run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LONGEST_DESCRIPTION = 4900  # MLflow's stores hold 5,000 characters
INTENDED = (
    "Ranks the videos of this catalogue for viewers with a watch history; viewers without one get the most popular videos. "
    "Scores order videos for one viewer; they are no probabilities and don't compare between viewers."
)
LIMITS = (
    "Learned from what was shown: it repeats the exposure of the system that logged the data. "
    "Videos added after training are unknown to it until the next run. "
    "Quality is measured offline on held-out interactions of known viewers; nothing was measured on live traffic. "
    "It has not been examined for fairness between groups of viewers or creators."
)


def card(report: Mapping[str, Any], *, name: str, trained: str, baselines: tuple[str, ...]) -> str:
    """Markdown. report: the evaluation stage's; trained: when, ISO 8601."""
    test, config = report["metrics"]["test"], report["config"]
    versions = ", ".join(f"`{table}` version {version}" for table, version in sorted(report["data"].items()))
    lines = [
        f"# {name}",
        "",
        f"Micro-video recommendation with TCD and NPD (arXiv 2603.01926), backbone {config['model']['backbone']}, width "
        f"{config['model']['width']}, tokens: {report['tokens']}. Registered {trained}.",
        "",
        "## Data",
        f"{versions}; digest `{report['data_digest']}`. {report['viewers']} test viewers, {report['items']} videos, protocol "
        f"{config['evaluate']['protocol']}, seed {config['seed']}.",
        "",
        "## Metrics (test, full ranking, history masked)",
        "| system | HR@10 | NDCG@10 | NDCG@10 of this model minus it |",
        "|---|---:|---:|---|",
    ]
    for system in ("mealrec", *baselines):
        if system in test:
            found = report["intervals"]["ndcg@10"].get(system)
            span = f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]" if found else ""
            lines.append(f"| {system} | {test[system]['hr@10']:.4f} | {test[system]['ndcg@10']:.4f} | {span} |")
    lines += ["", "## Slices (HR@10)", "| slice | viewers | mealrec |", "|---|---:|---:|"]
    lines += [f"| {part['slice']} | {part['viewers']} | {part['mealrec']:.4f} |" for part in report["slices"]]
    spread = report["beyond"]["mealrec"]
    lines += [
        "",
        f"Catalogue coverage {spread['coverage']:.3f}, Gini of exposure {spread['gini']:.3f}, popularity lift "
        f"{spread['popularity_lift']:.2f}.",
        "",
        "## Intended use",
        INTENDED,
        "",
        "## Limits",
        LIMITS,
    ]
    return "\n".join(lines)


def description(text: str) -> str:
    """The card cut to what a version's description can hold."""
    if len(text) <= LONGEST_DESCRIPTION:
        return text
    return text[: LONGEST_DESCRIPTION - 40].rsplit("\n", 1)[0] + "\n\n(the rest: card.md of the run)"
