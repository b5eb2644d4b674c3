"""The gate's decision, case by case."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mealrec.registry.gate import Decision, Evidence, GatePolicy, decide

POLICY = GatePolicy(metric="ndcg@10", baselines=("popularity", "markov"), confidence=0.95, samples=200, seed=1)
VIEWERS = tuple(f"u{n}" for n in range(200))


def evidence(version: str = "2", lift: float = 0.2, **changes: object) -> Evidence:
    rng = np.random.default_rng(0)
    markov = rng.random(len(VIEWERS)) * 0.5
    values = {
        "mealrec": markov + lift + 0.05 * rng.normal(size=len(VIEWERS)),
        "markov": markov,
        "popularity": markov / 2,
    }
    made = Evidence(
        version=version,
        metrics={name: {"ndcg@10": float(v.mean())} for name, v in values.items()},
        values=values,
        viewers=VIEWERS,
        data_digest="d",
        loads=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def failed(decision: Decision) -> list[str]:
    return [c.name for c in decision.checks if not c.passed]


def test_a_better_model_passes_with_its_figures() -> None:
    decision = decide(evidence(), None, POLICY)
    assert decision.passed and failed(decision) == []
    assert any("beats markov on ndcg@10" in words for words in decision.reasons)


@pytest.mark.parametrize("lift", [-0.2, 0.0])
def test_a_model_that_does_not_clearly_beat_a_baseline_is_refused(lift: float) -> None:
    decision = decide(evidence(lift=lift), None, POLICY)
    assert not decision.passed and "beats_markov" in failed(decision)
    assert all("does not beat" in words for words in decision.reasons)


def test_a_model_that_does_not_load_is_refused_whatever_its_metrics() -> None:
    decision = decide(evidence(loads="BundleError: half of it"), None, POLICY)
    assert failed(decision) == ["loads"] and "half of it" in decision.reasons[0]


def test_metrics_that_are_no_numbers_or_missing_are_refused() -> None:
    broken = evidence(metrics={"mealrec": {"ndcg@10": float("nan")}})
    assert decide(broken, None, POLICY).reasons == ["not finite: mealrec ndcg@10"]
    assert failed(decide(evidence(values={}), None, POLICY)) == ["numbers"]


def test_a_challenger_worse_than_the_champion_beyond_noise_is_refused() -> None:
    champion = evidence("1", lift=0.3)
    assert failed(decide(evidence(lift=0.2), champion, POLICY)) == ["champion"]
    assert decide(evidence(lift=0.3), champion, POLICY).passed
    assert decide(evidence(lift=0.4), champion, POLICY).passed


def test_on_other_data_the_comparison_allows_for_both_errors() -> None:
    champion = evidence("1", lift=0.21, data_digest="other")
    decision = decide(evidence(lift=0.2), champion, POLICY)
    assert decision.passed and "measured on other data" in decision.reasons[-1]
    far = evidence("1", lift=0.6, data_digest="other")
    assert failed(decide(evidence(lift=0.2), far, POLICY)) == ["champion"]


def test_the_decision_is_the_same_every_time() -> None:
    assert decide(evidence(), evidence("1"), POLICY) == decide(evidence(), evidence("1"), POLICY)
