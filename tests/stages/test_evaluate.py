"""When an evaluation is made again."""

from __future__ import annotations

import pytest

from mealrec.config import RunConfig
from mealrec.stages.evaluate import evaluation_digest


def changed(section: str, **values: object) -> RunConfig:
    config = RunConfig()
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


@pytest.mark.parametrize(
    ("config", "same"),
    [
        (RunConfig(), True),
        (changed("registry", confidence=0.9), False),  # of the report's intervals
        (changed("evaluate", bootstrap=2000), False),
        (changed("registry", min_coverage=0.9), True),
    ],
)
def test_whatever_the_report_states_makes_it_anew_and_nothing_else(config: RunConfig, same: bool) -> None:
    assert (evaluation_digest(config, "trained") == evaluation_digest(RunConfig(), "trained")) == same
    assert evaluation_digest(config, "another") != evaluation_digest(config, "trained")
