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
    assert decision.passed and any("measured on other data" in words for words in decision.reasons)
    far = evidence("1", lift=0.6, data_digest="other")
    assert failed(decide(evidence(lift=0.2), far, POLICY)) == ["champion"]


def test_when_a_gain_is_asked_for_being_as_good_is_not_enough() -> None:
    policy = replace(POLICY, against_champion="better")
    refused = decide(evidence(lift=0.3), evidence("1", lift=0.3), policy)
    assert failed(refused) == ["champion"] and "is not clearly better than" in refused.reasons[0]
    assert decide(evidence(lift=0.4), evidence("1", lift=0.3), policy).passed


def test_too_few_viewers_decide_nothing() -> None:
    assert failed(decide(evidence(), None, replace(POLICY, min_viewers=201))) == ["viewers"]
    assert decide(evidence(), None, replace(POLICY, min_viewers=200)).passed


def test_a_slice_of_the_champions_report_has_to_be_measured_again() -> None:
    champion = evidence("1", slices={"head target": 150, "tail target": 50, "history over 10": 49})
    refused = decide(evidence(slices={"head target": 200}), champion, POLICY)
    assert failed(refused) == ["slices"] and refused.reasons == [
        "not measured on: tail target, which the champion's report has"
    ]
    assert decide(evidence(slices={"head target": 100, "tail target": 1}), champion, POLICY).passed


def test_a_model_that_shows_everybody_the_same_is_refused() -> None:
    champion = evidence("1", coverage=0.8)
    assert failed(decide(evidence(coverage=0.39), champion, POLICY)) == ["coverage"]
    assert decide(evidence(coverage=0.4), champion, POLICY).passed


def test_a_slow_model_is_refused_with_its_latency() -> None:
    policy = replace(POLICY, max_latency_ms=100.0)
    refused = decide(evidence(latency_ms=120.0), None, policy)
    assert failed(refused) == ["latency"] and "within 120.0 ms, allowed 100 ms" in refused.reasons[0]
    assert decide(evidence(latency_ms=80.0), None, policy).passed
    assert failed(decide(evidence(), None, policy)) == ["latency"]  # not measured is not fast


def test_the_decision_is_the_same_every_time() -> None:
    assert decide(evidence(), evidence("1"), POLICY) == decide(evidence(), evidence("1"), POLICY)
