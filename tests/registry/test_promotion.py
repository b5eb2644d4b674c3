"""The audit trail decides, the aliases follow: promotions, refusals, rollbacks and what a killed process leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mealrec.config import RegistryConfig
from mealrec.lake import Lake, LostRace
from mealrec.registry import promotion, trail
from mealrec.registry.gate import Check, Decision
from mealrec.registry.promotion import Author, PromotionError, Version
from mealrec.registry.tracking import EVALUATED_TAG, Tracker
from mealrec.registry.trail import Entry, Trail

PASSED = Decision(True, (Check("all", True, "fine"),))
REFUSED = Decision(False, (Check("beats_markov", False, "does not beat markov"),))
ME = Author("me", "2026-01-01T00:00:00+00:00", "run-1")


@pytest.fixture
def tracker(registry_work: Path) -> Tracker:
    return Tracker(RegistryConfig(), registry_work)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def register(tracker: Tracker, digest: str) -> Version:
    run = tracker.start("train", digest, "a run")
    return promotion.register(tracker, f"runs:/{run}/model", run, {EVALUATED_TAG: digest})


def settle(tracker: Tracker, lake: Lake, version: Version, decision: Decision) -> Trail:
    state = trail.read(lake, "mealrec")
    return promotion.follow(tracker, lake, promotion.settle(tracker, lake, state, version, decision, ME))


def aliases(tracker: Tracker) -> dict[str, str | None]:
    found = {alias: promotion.by_alias(tracker, alias) for alias in ("champion", "previous", "challenger")}
    return {alias: version.version if version else None for alias, version in found.items()}


def test_promotion_moves_the_aliases_and_rollback_moves_them_back(tracker: Tracker, lake: Lake) -> None:
    one, two, three = (register(tracker, f"e{n}") for n in range(3))
    settle(tracker, lake, one, PASSED)
    settle(tracker, lake, two, REFUSED)
    assert aliases(tracker) == {"champion": "1", "previous": None, "challenger": "3"}
    settle(tracker, lake, three, PASSED)
    assert aliases(tracker) == {"champion": "3", "previous": "1", "challenger": "3"}
    back = promotion.rollback(tracker, lake, ME)
    assert back.version == "1" and aliases(tracker) == {"champion": "1", "previous": "3", "challenger": "3"}
    assert promotion.rollback(tracker, lake, ME, to="3").version == "3"
    assert [(e.action, e.version, e.from_version) for e in trail.read(lake, "mealrec").entries] == [
        ("promoted", "1", None),
        ("refused", "2", "1"),
        ("promoted", "3", "1"),
        ("rolled back", "1", "3"),
        ("rolled back", "3", "1"),
    ]


def test_the_trail_says_who_when_why_and_in_which_run(tracker: Tracker, lake: Lake) -> None:
    settle(tracker, lake, register(tracker, "e0"), REFUSED)
    (entry,) = trail.read(lake, "mealrec").entries
    assert entry == Entry("mealrec", "refused", "1", None, ME.who, ME.when, ("does not beat markov",), "run-1")
    shown = promotion.get(tracker, "1")
    assert shown.gate == {"passed": False, "reasons": ["does not beat markov"]}
    assert promotion.MOVES_TAG not in shown.tags
    settle(tracker, lake, register(tracker, "e1"), PASSED)
    moves = json.loads(promotion.get(tracker, "2").tags[promotion.MOVES_TAG])
    assert moves == [{"move": "promoted", "from": None, "who": "me", "when": ME.when}]


def test_rollback_names_what_is_missing(tracker: Tracker, lake: Lake) -> None:
    with pytest.raises(PromotionError, match="no champion"):
        promotion.rollback(tracker, lake, ME)
    for n, decision in enumerate((PASSED, REFUSED, PASSED)):
        settle(tracker, lake, register(tracker, f"e{n}"), decision)
        if n == 0:
            with pytest.raises(PromotionError, match="no previous one"):
                promotion.rollback(tracker, lake, ME)
    register(tracker, "e3")
    with pytest.raises(PromotionError, match="the gate refused it: does not beat markov"):
        promotion.rollback(tracker, lake, ME, to="2")
    with pytest.raises(PromotionError, match="never asked"):
        promotion.rollback(tracker, lake, ME, to="4")
    with pytest.raises(PromotionError, match="no version 9"):
        promotion.rollback(tracker, lake, ME, to="9")
    with pytest.raises(PromotionError, match="champion already"):
        promotion.rollback(tracker, lake, ME, to="3")


def test_a_decision_made_from_an_older_trail_is_not_committed(tracker: Tracker, lake: Lake) -> None:
    one, two = register(tracker, "e0"), register(tracker, "e1")
    empty = trail.read(lake, "mealrec")
    promotion.settle(tracker, lake, empty, one, PASSED, ME)
    with pytest.raises(LostRace):
        promotion.settle(tracker, lake, empty, two, PASSED, ME)
    assert trail.read(lake, "mealrec").champion == "1"


def test_aliases_left_behind_by_a_killed_process_are_set_by_the_next(tracker: Tracker, lake: Lake) -> None:
    one, two = register(tracker, "e0"), register(tracker, "e1")
    old = settle(tracker, lake, one, PASSED)
    committed = promotion.settle(tracker, lake, old, two, PASSED, ME)  # and then it was killed
    assert aliases(tracker)["champion"] == "1"
    promotion.follow(tracker, lake, committed)
    assert aliases(tracker) == {"champion": "2", "previous": "1", "challenger": "2"}


def test_a_process_that_follows_an_older_trail_ends_at_the_newest(tracker: Tracker, lake: Lake) -> None:
    one, two = register(tracker, "e0"), register(tracker, "e1")
    old = promotion.settle(tracker, lake, trail.read(lake, "mealrec"), one, PASSED, ME)
    promotion.follow(tracker, lake, promotion.settle(tracker, lake, old, two, PASSED, ME))
    promotion.follow(tracker, lake, old)  # a slow one wakes up
    assert aliases(tracker) == {"champion": "2", "previous": "1", "challenger": "2"}


def test_trails_of_two_models_in_one_lake_stay_apart(registry_work: Path, lake: Lake) -> None:
    for name in ("news", "music"):
        tracker = Tracker(RegistryConfig(model_name=name), registry_work)
        version = register(tracker, name)
        state = promotion.settle(tracker, lake, trail.read(lake, name), version, PASSED, ME)
        assert promotion.follow(tracker, lake, state).champion == "1"
    assert [e.model for e in trail.read(lake, "news").entries] == ["news"]


def test_a_version_whose_process_was_killed_before_its_alias_is_found_again(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker.client, "set_registered_model_alias", killed)
    with pytest.raises(KeyboardInterrupt):
        register(tracker, "e0")
    found = promotion.by_evaluation(tracker, "e0")
    assert found is not None and found.version == "1" and promotion.by_evaluation(tracker, "e9") is None
