"""The gate: may a challenger become champion? A pure function of evidence and policy, every check with its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from mealrec.evaluation.significance import paired_bootstrap

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GatePolicy:
    """metric: per-viewer values of it are compared; baselines must be beaten with `confidence`, the champion not lost to
    ("not-worse") or beaten as well ("better").

    min_viewers: fewer test viewers decide nothing; min_slice_viewers: a slice of the champion's report with as many must be in
    the challenger's; min_coverage: share of the champion's catalogue coverage to be kept; max_latency_ms: 95th percentile of
    one viewer's request."""

    metric: str
    baselines: tuple[str, ...]
    confidence: float
    samples: int
    seed: int
    against_champion: Literal["not-worse", "better"] = "not-worse"
    min_viewers: int = 1
    min_slice_viewers: int = 50
    min_coverage: float = 0.5
    max_latency_ms: float = math.inf


@dataclass(frozen=True)
class Evidence:
    """What is known of a model version.

    values: per-viewer values of the gate metric by system ("mealrec" and each baseline); viewers: the user ids they belong
    to, in order; loads: None when the model loaded from the registry and predicted, else what went wrong; slices: viewers in
    each slice of its report; coverage: share of the catalogue it shows anybody; latency_ms: 95th percentile of one viewer's
    request, None where it was not measured.
    """

    version: str
    metrics: Mapping[str, Mapping[str, float]]
    values: Mapping[str, Values]
    viewers: tuple[str, ...]
    data_digest: str
    loads: str | None
    slices: Mapping[str, int] = field(default_factory=dict)
    coverage: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    words: str


@dataclass(frozen=True)
class Decision:
    """passed, and why: `reasons` names the failed checks, or says that all passed."""

    passed: bool
    checks: tuple[Check, ...]

    @property
    def reasons(self) -> list[str]:
        failed = [c.words for c in self.checks if not c.passed]
        return failed or [c.words for c in self.checks]


def decide(challenger: Evidence, champion: Evidence | None, policy: GatePolicy) -> Decision:
    """Every check is made and reported, also after one failed."""
    checks = [_loads(challenger), _numbers(challenger, policy)]
    if all(c.passed for c in checks):
        checks.append(_viewers(challenger, policy))
        checks += [_beats(challenger, name, policy) for name in policy.baselines]
        checks.append(_holds_against(challenger, champion, policy))
        checks.append(_slices(challenger, champion, policy))
        checks.append(_coverage(challenger, champion, policy))
        checks.append(_latency(challenger, policy))
    return Decision(all(c.passed for c in checks), tuple(checks))


def _loads(challenger: Evidence) -> Check:
    words = "loads from the registry and predicts" if challenger.loads is None else f"does not load: {challenger.loads}"
    return Check("loads", challenger.loads is None, words)


def _numbers(challenger: Evidence, policy: GatePolicy) -> Check:
    missing = [n for n in ("mealrec", *policy.baselines) if n not in challenger.values or not len(challenger.values[n])]
    if missing:
        return Check("numbers", False, f"no per-viewer {policy.metric} of {', '.join(missing)}")
    bad = [
        f"{system} {name}"
        for system, values in challenger.metrics.items()
        for name, value in values.items()
        if not math.isfinite(value)
    ]
    return Check("numbers", not bad, f"not finite: {', '.join(bad)}" if bad else "every metric is finite")


def _viewers(challenger: Evidence, policy: GatePolicy) -> Check:
    count = len(challenger.viewers)
    words = f"{count} test viewers, at least {policy.min_viewers} are asked for"
    return Check("viewers", count >= policy.min_viewers, words)


def _slices(challenger: Evidence, champion: Evidence | None, policy: GatePolicy) -> Check:
    """What the champion was measured on must have been measured again: a slice that vanished hides what happened to it."""
    known = champion.slices if champion else {}
    missing = [n for n, v in known.items() if v >= policy.min_slice_viewers and n not in challenger.slices]
    if missing:
        return Check("slices", False, f"not measured on: {', '.join(missing)}, which the champion's report has")
    return Check(
        "slices", True, f"measured on {len(challenger.slices)} slices of the viewers, none of the champion's missing"
    )


def _coverage(challenger: Evidence, champion: Evidence | None, policy: GatePolicy) -> Check:
    """A model that shows everybody the same few videos is refused, however good its mean."""
    if challenger.coverage is None or champion is None or champion.coverage is None:
        return Check("coverage", True, "catalogue coverage has no champion's to be compared with")
    least = policy.min_coverage * champion.coverage
    passed = challenger.coverage >= least
    words = (
        f"catalogue coverage {challenger.coverage:.3f}, the champion's {champion.coverage:.3f}, at least {least:.3f}"
    )
    return Check("coverage", passed, words if passed else f"collapsed: {words}")


def _latency(challenger: Evidence, policy: GatePolicy) -> Check:
    if challenger.latency_ms is None:
        passed = math.isinf(policy.max_latency_ms)
        return Check("latency", passed, "latency was not measured")
    passed = challenger.latency_ms <= policy.max_latency_ms
    words = f"95 % of single requests within {challenger.latency_ms:.1f} ms, allowed {policy.max_latency_ms:g} ms"
    return Check("latency", passed, words if passed else f"too slow: {words}")


def _beats(challenger: Evidence, baseline: str, policy: GatePolicy) -> Check:
    """The whole interval of the paired difference is above zero."""
    own, other = challenger.values["mealrec"], challenger.values[baseline]
    interval = paired_bootstrap(own, other, samples=policy.samples, confidence=policy.confidence, seed=policy.seed)
    passed = interval.low > 0
    verb = "beats" if passed else "does not beat"
    words = (
        f"{verb} {baseline} on {policy.metric}: {own.mean():.4f} against {other.mean():.4f}, "
        f"difference in [{interval.low:+.4f}, {interval.high:+.4f}]"
    )
    return Check(f"beats_{baseline}", passed, words)


def _holds_against(challenger: Evidence, champion: Evidence | None, policy: GatePolicy) -> Check:
    """Not worse than the champion beyond noise: the interval of the difference reaches zero or above.

    On the same viewers the difference is paired. Other viewers, or other data, leave no pairs: then the challenger's mean
    must not lie below the champion's by more than both standard errors together.
    """
    if champion is None:
        return Check("champion", True, "there is no champion yet")
    own, other = challenger.values["mealrec"], champion.values.get("mealrec", np.zeros(0))
    name = f"champion version {champion.version}"
    if not len(other):
        return Check("champion", False, f"{name} has no per-viewer {policy.metric} to compare with")
    if challenger.viewers == champion.viewers and challenger.data_digest == champion.data_digest:
        interval = paired_bootstrap(own, other, samples=policy.samples, confidence=policy.confidence, seed=policy.seed)
        passed = interval.low > 0 if policy.against_champion == "better" else interval.high >= 0
        span = f"paired difference in [{interval.low:+.4f}, {interval.high:+.4f}]"
    else:
        error = 2 * math.sqrt(own.var() / len(own) + other.var() / len(other))
        least = error if policy.against_champion == "better" else -error
        passed = own.mean() - other.mean() >= least
        span = f"measured on other data, allowed to differ by {error:.4f}"
    verb = {
        ("not-worse", True): "is not worse than",
        ("not-worse", False): "is worse than",
        ("better", True): "is better than",
        ("better", False): "is not clearly better than",
    }[policy.against_champion, passed]
    return Check(
        "champion", passed, f"{verb} {name} on {policy.metric}: {own.mean():.4f} against {other.mean():.4f}, {span}"
    )
