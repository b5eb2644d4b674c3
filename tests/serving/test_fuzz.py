"""Requests made from the endpoint's own schema, right ones and wrong ones: it keeps to what it documents."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import positive_data_acceptance

from mealrec.config import RunConfig, ServeConfig
from mealrec.registry.source import RegistrySource
from mealrec.serving.app import build
from mealrec.serving.models import Models
from mealrec.serving.viewers import ViewerStates
from mealrec.serving.world import World
from tests.serving.conftest import Registry
from tests.serving.test_app import TOKEN, InProcess
from tests.serving.test_journal import DAY, write_sequences

WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}
ROUTES = ("POST /recommend", "POST /events", "GET /videos/{video_id}/salience", "GET /healthz", "GET /metrics")


@pytest.fixture(scope="module")
def api(store: Path, bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> BaseSchema:
    registry = Registry(store, "fuzz")
    registry.promote(registry.register(bundles[0]))
    models = Models(RegistrySource(registry.tracker), tmp_path_factory.mktemp("scratch"))
    models.refresh()
    world = World(RunConfig(lake=str(tmp_path_factory.mktemp("lake"))))
    write_sequences(world.lake, {"u1": [(1, 100), (2, 300)]})
    states = ViewerStates(world.lake, world.lake.folder("events"), world.config.sessionize, lambda: DAY)
    digest = hashlib.sha256(TOKEN.encode()).digest()
    app = build(models, InProcess(states), world, ServeConfig(), token_digest=digest)
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=WITH_TOKEN)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("route", ROUTES)
def test_every_answer_is_a_documented_one(api: BaseSchema, route: str, mode: GenerationMode) -> None:
    if (route, mode) == ("GET /healthz", GenerationMode.NEGATIVE):
        pytest.skip("takes nothing that could be wrong")
    method, path = route.split(" ")

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        # the schema can't say what the settings say of an event's time
        beyond = [positive_data_acceptance] if path == "/events" else []
        case.call_and_validate(headers=WITH_TOKEN, excluded_checks=beyond)

    ask()


def test_every_route_is_asked(api: BaseSchema) -> None:
    assert {f"{method.upper()} {path}" for path in api for method in api[path]} == set(ROUTES)
