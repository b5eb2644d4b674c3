"""The endpoint over a real model, a real journal and a real lake; each test speaks HTTP to the app."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from mealrec.config import RunConfig, ServeConfig, SessionizeConfig
from mealrec.registry.source import RegistrySource
from mealrec.serving.app import build
from mealrec.serving.front import Front
from mealrec.serving.messages import MAX_BODY_BYTES, MAX_K, Event
from mealrec.serving.metrics import merged
from mealrec.serving.models import Models
from mealrec.serving.states import Accepted, Unavailable
from mealrec.serving.viewers import ViewerStates
from mealrec.serving.world import World
from tests.serving.conftest import Registry
from tests.serving.test_journal import DAY, write_sequences
from tests.serving.test_models import wait_for

TOKEN = "a-token-for-this-test"
NOW = 1_768_900_000_000


class InProcess:
    """States over ViewerStates without an actor between."""

    def __init__(self, states: ViewerStates) -> None:
        self.states = states

    async def history(self, user_id: str) -> list[str]:
        return self.states.history(user_id)

    async def accept(self, events: Sequence[Event]) -> Accepted:
        return self.states.accept(events)

    async def reach(self) -> None:
        pass


class OutOfReach:
    """A fault: the actor is being restarted."""

    async def history(self, user_id: str) -> list[str]:
        raise Unavailable("viewer states did not answer within 5 s")

    async def accept(self, events: Sequence[Event]) -> Accepted:
        raise Unavailable("viewer states did not answer within 5 s")

    async def reach(self) -> None:
        raise Unavailable("viewer states did not answer within 5 s")


@pytest.fixture(scope="module")
def models(store: Path, bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Models:
    registry = Registry(store, "app")
    registry.promote(registry.register(bundles[0]))
    made = Models(RegistrySource(registry.tracker), tmp_path_factory.mktemp("scratch"))
    made.refresh()
    return made


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(RunConfig(lake=str(tmp_path / "lake")))


@pytest.fixture
def states(world: World) -> Iterator[InProcess]:
    write_sequences(world.lake, {"u1": [(1, 100), (2, 300)]})
    made = ViewerStates(world.lake, world.lake.folder("events"), world.config.sessionize, lambda: DAY)
    yield InProcess(made)
    made.close()


def client_of(app: ASGIApp, **headers: str) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:8080", headers=headers, raise_server_exceptions=False)


@pytest.fixture
def app(models: Models, states: InProcess, world: World) -> FastAPI:
    return build(models, states, world, ServeConfig())


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return client_of(app)


def ids(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [video["video_id"] for video in answer.json()["videos"]]


def event(name: str, video: str = "v9", **fields: Any) -> dict[str, Any]:
    return {"event_id": name, "user_id": "u1", "video_id": video, "event_type": "like", "timestamp": NOW} | fields


def test_a_viewer_is_recommended_what_their_history_says(client: TestClient, models: Models) -> None:
    by_viewer = client.post("/recommend", json={"user_id": "u1", "k": 5})
    by_history = client.post("/recommend", json={"history": ["v1", "v2"], "k": 5})
    expected = models.get().recommender.recommend([[1, 2]], 5)
    assert ids(by_viewer) == ids(by_history) == [f"v{i}" for i in expected.item_index[0]]
    body = by_viewer.json()
    assert (body["history_length"], body["unknown"], body["fallback"], body["skipped"]) == (2, 0, None, [])
    assert body["model_version"] == "1" and body["unusual"] == pytest.approx(float(expected.unusual[0]))
    assert [v["score"] for v in body["videos"]] == pytest.approx(expected.scores[0].tolist())


def test_filters_hold(client: TestClient) -> None:
    plain = ids(client.post("/recommend", json={"user_id": "u1"}))
    assert "v1" not in plain and "v2" not in plain and len(plain) == 20
    without = ids(client.post("/recommend", json={"user_id": "u1", "exclude": plain[:3]}))
    assert not set(plain[:3]) & set(without) and without[:10] == plain[3:13]
    some = {"user_id": "u1", "only": [plain[4], plain[2], "v1", "nobody"]}
    assert ids(client.post("/recommend", json=some)) == [plain[2], plain[4]]
    assert set(ids(client.post("/recommend", json=some | {"exclude_seen": False}))) == {plain[2], plain[4], "v1"}
    assert ids(client.post("/recommend", json={"user_id": "u1", "only": []})) == []


def test_without_a_known_history_the_list_is_by_popularity_and_says_so(client: TestClient, models: Models) -> None:
    popular = [f"v{i}" for i in models.get().recommender.recommend([[]], 5).item_index[0]]
    for asked, reason, unknown in (
        ({"user_id": "nobody"}, "empty_history", 0),
        ({"history": []}, "empty_history", 0),
        ({"history": ["x", "y"]}, "unknown_videos", 2),
    ):
        found = client.post("/recommend", json={**asked, "k": 5})
        assert ids(found) == popular
        assert (found.json()["fallback"], found.json()["unknown"]) == (reason, unknown)
    mixed = client.post("/recommend", json={"history": ["x", "v1"]}).json()
    assert (mixed["fallback"], mixed["unknown"], mixed["history_length"]) == (None, 1, 1)


def test_an_accepted_event_changes_what_is_recommended_and_is_in_the_journal(client: TestClient, world: World) -> None:
    first = ids(client.post("/recommend", json={"user_id": "u1"}))[0]
    for expected in ({"accepted": 2, "duplicates": 0}, {"accepted": 0, "duplicates": 2}):
        sent = client.post("/events", json={"events": [event("e1", first), event("e2", user_id="new")]})
        assert (sent.status_code, sent.json()) == (200, expected)
    assert first not in ids(client.post("/recommend", json={"user_id": "u1", "k": 200}))
    assert client.post("/recommend", json={"user_id": "new"}).json()["history_length"] == 1
    journal = (world.lake.folder("events") / f"served-{DAY}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in journal] == [event("e1", first), event("e2", user_id="new")]


def test_one_wrong_event_refuses_them_all_and_names_its_field(client: TestClient, world: World) -> None:
    for wrong, field in (
        (event("e2", timestamp=5), "timestamp"),
        (event("e2", watch_ms=100_000, duration_ms=10), "watch_ms"),
        (event("e2", event_type="looked"), "event_type"),
        (event("e2", video_id="[1"), "video_id"),
        (event("e2", duration_ms=0), "duration_ms"),
        (event("e2", colour="red"), "colour"),
        (event(""), "event_id"),
    ):
        answer = client.post("/events", json={"events": [event("e1"), wrong]})
        assert answer.status_code == 422
        assert [f["field"] for f in answer.json()["fields"]] == [f"body.events.1.{field}"], answer.text
    assert not list(world.lake.folder("events").glob("*.jsonl"))


def test_an_event_that_the_night_would_find_too_late_or_too_long_is_refused(
    models: Models, states: InProcess, tmp_path: Path
) -> None:
    strict = RunConfig(lake=str(tmp_path / "lake"), sessionize=SessionizeConfig(late_days=1, max_field_bytes=32))
    client, now = client_of(build(models, states, World(strict), ServeConfig())), int(time.time() * 1000)
    late = client.post("/events", json={"events": [event("e1", timestamp=now - 3 * 86_400_000)]})
    assert [f["field"] for f in late.json()["fields"]] == ["body.events.0.timestamp"]
    long = client.post("/events", json={"events": [event("e1", timestamp=now, user_id="é" * 20)]})
    told = {"problem": "must not be longer than 32 bytes in UTF-8", "given": repr("é" * 20)}
    assert long.json()["fields"] == [{"field": "body.events.0.user_id", **told}]
    assert client.post("/events", json={"events": [event("e1", timestamp=now)]}).json()["accepted"] == 1


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"user_id": "u1", "k": 0}, "body.k", "greater than or equal to 1"),
        ({"user_id": "u1", "k": MAX_K + 1}, "body.k", f"less than or equal to {MAX_K}"),
        ({"user_id": "u1", "k": "5"}, "body.k", "valid integer"),
        ({"user_id": "u1", "kk": 5}, "body.kk", "not permitted"),
        ({"user_id": "u" * 257}, "body.user_id", "at most 256 characters"),
        ({"user_id": "a\nb"}, "body.user_id", "match pattern"),
        ({"history": ["v1"] * 1001}, "body.history", "at most 1000 items"),
        ({"history": [1]}, "body.history.0", "valid string"),
        ({"user_id": "u1", "history": []}, "body", "exactly one of user_id and history"),
        ({"k": 5}, "body", "exactly one of user_id and history"),
        ({"user_id": "u1", "exclude": ["v"] * 1001}, "body.exclude", "at most 1000 items"),
    ],
)
def test_a_wrong_request_names_the_field_what_is_right_and_what_was_given(
    client: TestClient, body: dict[str, Any], field: str, words: str
) -> None:
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 422
    (found,) = answer.json()["fields"]
    assert found["field"] == field and words in found["problem"] and len(found["given"]) <= 200


def test_what_is_no_request_is_refused_before_the_app_sees_it(client: TestClient) -> None:
    kind = {"content-type": "application/json"}
    too_much = b" " * (MAX_BODY_BYTES + 1)
    assert client.post("/recommend", content=b"{", headers=kind).status_code == 422
    assert client.post("/recommend", content=b"\xff", headers=kind).status_code == 400
    assert client.post("/recommend", content=too_much, headers=kind).status_code == 413
    assert client.post("/recommend", content=iter([too_much]), headers=kind).status_code == 413, "sent in chunks"
    assert client.post("/recommend", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.get("/recommend").status_code == 405
    assert client.get("/nowhere").json() == {"error": "Not Found", "fields": []}


def test_salience_of_a_video_in_general_and_for_a_viewer(client: TestClient, models: Models) -> None:
    general = client.get("/videos/v1/salience").json()
    weights = [frame["weight"] for frame in general["frames"]]
    assert sum(weights) == pytest.approx(1) and general["user_id"] is None
    assert general["moment_ms"] == general["frames"][weights.index(max(weights))]["time_ms"]
    own = client.get("/videos/v2/salience", params={"user_id": "u1"}).json()
    expected = models.get().recommender.explain([1, 2])[-1]
    assert [f["weight"] for f in own["frames"]] == pytest.approx([w for w in expected.tolist() if w > 0])
    assert client.get("/videos/v5/salience").json()["frames"] == [], "v5 has no content at all"
    unknown = client.get("/videos/nope/salience")
    assert unknown.status_code == 404 and "version 1 does not know video 'nope'" in unknown.json()["error"]


def test_health_says_which_version_serves_and_since_when(client: TestClient, models: Models) -> None:
    answer = client.get("/healthz")
    body = answer.json()
    assert answer.status_code == 200 and body["ready"] and body["model_version"] == "1"
    assert body["loaded"] == models.get().loaded and body["age_s"] >= 0


def test_without_a_model_or_viewer_states_the_answer_is_503_with_retry_after(
    models: Models, states: InProcess, world: World, tmp_path: Path
) -> None:
    none_yet = client_of(build(Models(models.source, tmp_path, ["nobody"]), states, world, ServeConfig()))
    no_states = client_of(build(models, OutOfReach(), world, ServeConfig()))
    for client, words in ((none_yet, "no model is loaded"), (no_states, "viewer states did not answer")):
        for answer in (client.post("/recommend", json={"user_id": "u1"}), client.get("/healthz")):
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
            assert words in answer.text
    assert no_states.post("/events", json={"events": [event("e1")]}).status_code == 503
    assert no_states.post("/recommend", json={"history": ["v1"]}).status_code == 200, "needs no states"


def test_a_token_is_asked_for_everywhere_but_at_the_probe(models: Models, states: InProcess, world: World) -> None:
    digest = hashlib.sha256(TOKEN.encode()).digest()
    app = build(models, states, world, ServeConfig(host="0.0.0.0"), token_digest=digest)
    asked = [("POST", "/recommend"), ("POST", "/events"), ("GET", "/videos/v1/salience"), ("GET", "/metrics")]
    asked += [("GET", "/openapi.json"), ("GET", "/nowhere")]
    for given in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Basic {TOKEN}"}):
        for method, path in asked:
            answer = client_of(app, **given).request(method, path)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), path
    assert client_of(app).get("/healthz").status_code == 200
    allowed = client_of(app, Authorization=f"Bearer {TOKEN}")
    assert allowed.post("/recommend", json={"user_id": "u1"}).status_code == 200
    schema = allowed.get("/openapi.json").json()
    assert schema["paths"]["/recommend"]["post"]["security"] == [{"token": []}]
    assert "401" in schema["paths"]["/events"]["post"]["responses"]
    assert "security" not in schema["paths"]["/healthz"]["get"]


def test_on_loopback_without_a_token_another_host_name_is_refused(app: FastAPI) -> None:
    for host, status in (("localhost:8080", 200), ("[::1]:8080", 200), ("evil.example", 400), ("", 400)):
        assert client_of(app, Host=host).get("/healthz").status_code == status, host


def test_overload_is_answered_with_503_at_once_and_probes_still_pass(
    models: Models, states: InProcess, world: World
) -> None:
    app = build(models, states, world, ServeConfig(max_in_flight=2))
    release, busy = threading.Event(), threading.Semaphore(0)
    real = models.get().recommender.recommend

    def slow(*arguments: Any, **keywords: Any) -> Any:
        busy.release()
        release.wait(30)
        return real(*arguments, **keywords)

    answers: list[Any] = []
    with client_of(app) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.get().recommender, "recommend", slow)
        held = [
            threading.Thread(target=lambda: answers.append(client.post("/recommend", json={"user_id": "u1"})))
            for _ in range(2)
        ]
        for thread in held:
            thread.start()
        busy.acquire(timeout=30)
        wait_for(lambda: app.state.metrics.registry.get_sample_value("mealrec_requests_in_flight") == 2)
        refused = client.post("/recommend", json={"user_id": "u1"})
        assert refused.headers["Retry-After"] == "1" and "overloaded" in refused.text
        assert client.get("/healthz").status_code == 200
        time.sleep(2 * ServeConfig().deadline_ms / 1000)
        release.set()
        for thread in held:
            thread.join()
    assert sorted(a.status_code for a in answers) == [200, 200]
    whole, late = (a.json() for a in sorted(answers, key=lambda a: len(a.json()["skipped"])))
    assert (whole["skipped"], late["skipped"]) == ([], ["tcd", "npd"]), "the one that waited too long says so"
    assert [v["score"] for v in late["videos"]] == pytest.approx(real([[1, 2]], 20, quick=True).scores[0].tolist())
    assert [v["score"] for v in whole["videos"]] == pytest.approx(real([[1, 2]], 20).scores[0].tolist())
    assert late["unusual"] == 0 < whole["unusual"]


def test_metrics_count_requests_fallbacks_models_and_events(client: TestClient) -> None:
    client.post("/recommend", json={"user_id": "u1"})
    client.post("/recommend", json={"history": ["x"]})
    client.post("/recommend", json={"k": 0})
    client.get("/videos/nope/salience")
    client.get("/some/random/path")
    client.post("/events", json={"events": [event("e1"), event("e1")]})
    text = client.get("/metrics").text
    samples = {
        (s.name, *sorted(v for k, v in s.labels.items() if k != "replica")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    assert samples["mealrec_requests_total", "/recommend", "200", "POST"] == 2
    assert samples["mealrec_requests_total", "/recommend", "422", "POST"] == 1
    assert samples["mealrec_requests_total", "/videos/{video_id}/salience", "404", "GET"] == 1
    assert samples["mealrec_requests_total", "404", "GET", "other"] == 1, "a path nobody named is no label"
    assert samples["mealrec_request_seconds_count", "/recommend"] == 3
    assert samples["mealrec_fallbacks_total", "unknown_videos"] == 1
    assert samples["mealrec_unknown_videos_total",] == 1
    assert samples["mealrec_unusual_history_count",] == 1
    assert samples["mealrec_model_info", "1", "champion"] == 1
    assert samples["mealrec_model_swaps_total",] == samples["mealrec_model_refused_total",] == 0
    assert samples["mealrec_events_total", "accepted"] == samples["mealrec_events_total", "duplicate"] == 1


def test_metrics_of_several_replicas_are_told_apart() -> None:
    one = "# HELP a_total Asks\n# TYPE a_total counter\na_total 3.0\n"
    text = merged({"r1": one, "r2": one.replace("3.0", "4.0")}).decode()
    assert text.count("# TYPE") == 1
    assert 'a_total{replica="r1"} 3.0' in text and 'a_total{replica="r2"} 4.0' in text


def test_a_mistake_of_ours_is_a_500_that_tells_nothing_and_is_logged(
    models: Models,
    states: InProcess,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Signed by the replica, so the proxy's middleware takes it for what it is and asks no other replica."""
    asked = 0

    def broken(*arguments: Any, **keywords: Any) -> Any:
        nonlocal asked
        asked += 1
        raise RuntimeError("inner secret")

    monkeypatch.setattr(models.get().recommender, "recommend", broken)
    app = build(models, states, world, ServeConfig(), replica="r1")
    for times, client in enumerate((client_of(app), client_of(Front(app))), start=1):
        answer = client.post("/recommend", json={"user_id": "u1"})
        assert (answer.status_code, answer.headers["x-replica"], asked) == (500, "r1", times)
        assert answer.json()["error"].startswith("internal error") and "secret" not in answer.text
    assert "inner secret" in caplog.text
    counted = app.state.metrics.registry.get_sample_value
    labels = {"method": "POST", "route": "/recommend", "status": "500"}
    assert counted("mealrec_requests_total", labels) == 2
    assert counted("mealrec_request_seconds_count", {"route": "/recommend"}) == 2
