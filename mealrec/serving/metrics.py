"""What Prometheus is told: requests, models, fallbacks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mealrec.serving.models import Models, NoModel

LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
UNUSUAL = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
OTHER = "other"
SIGNATURE = b"x-replica"

Peers = Callable[[], Awaitable[dict[str, str]]]

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, models: Models) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter(
            "mealrec_requests", "Requests by route and status", ["method", "route", "status"], registry=own
        )
        self.seconds = Histogram(
            "mealrec_request_seconds", "Seconds to the whole answer", ["route"], buckets=LATENCY_S, registry=own
        )
        self.in_flight = Gauge("mealrec_requests_in_flight", "Requests being answered", registry=own)
        self.fallbacks = Counter(
            "mealrec_fallbacks", "Recommendations made with less, by reason", ["reason"], registry=own
        )
        self.unknown = Counter("mealrec_unknown_videos", "Video ids the model does not know", registry=own)
        self.unusual = Histogram(
            "mealrec_unusual_history", "How far NPD moved viewers' states", buckets=UNUSUAL, registry=own
        )
        self.events = Counter("mealrec_events", "Events by what became of them", ["outcome"], registry=own)
        own.register(_OfModels(models))

    def text(self) -> str:
        return generate_latest(self.registry).decode()


async def alone() -> dict[str, str]:
    """Peers of a process that has none."""
    return {}


def merged(texts: Mapping[str, str]) -> bytes:
    """Prometheus texts of several replicas as one, every sample with the label `replica`."""
    families: dict[str, Metric] = {}
    for replica, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            held = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            held.samples += [s._replace(labels={**s.labels, "replica": replica}) for s in family.samples]
    registry = CollectorRegistry()
    registry.register(_Fixed(list(families.values())))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


class _OfModels(Collector):
    """Read from Models whenever somebody asks."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("mealrec_model_info", "1 for the version that serves", labels=["alias", "version"])
        loaded = GaugeMetricFamily("mealrec_model_loaded_time_seconds", "When it began to serve", labels=["alias"])
        compiled = GaugeMetricFamily("mealrec_model_compiled", "1 where it answers from native code", labels=["alias"])
        for alias in self.models.aliases:
            try:
                served = self.models.get(alias)
            except NoModel:
                continue
            info.add_metric([alias, served.version], 1)
            loaded.add_metric([alias], served.loaded_time.timestamp())
            compiled.add_metric([alias], float(served.recommender.whole is not None))
        counts = self.models.counts
        yield info
        yield loaded
        yield compiled
        yield CounterMetricFamily("mealrec_model_swaps", "Times an alias moved here", value=counts.swaps)
        yield CounterMetricFamily("mealrec_model_refused", "Versions not fit to serve", value=len(counts.refused))
        yield CounterMetricFamily("mealrec_model_failed", "Loads that are tried again", value=counts.failed)
        yield CounterMetricFamily("mealrec_registry_unreachable", "Asks without an answer", value=counts.unreachable)


class Measured:
    """ASGI middleware: counts every request once, by the template of its route, never by its raw path, and signs the answer
    with the replica's name: one without it is not the app's own (see front.py)."""

    def __init__(self, app: ASGIApp, metrics: Metrics, replica: str) -> None:
        self.app, self.metrics, self.replica = app, metrics, replica.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (SIGNATURE, self.replica)]
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, noting)
            finally:
                route = getattr(scope.get("route"), "path", OTHER)
                method = scope["method"] if scope["method"] in ("GET", "POST") else OTHER
                self.metrics.requests.labels(method, route, status).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
