"""What Prometheus is told: requests, models, fallbacks."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mealrec.serving.models import Models, NoModel

LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
UNUSUAL = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
OTHER = "other"

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


class _OfModels(Collector):
    """Read from Models whenever somebody asks."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("mealrec_model_info", "1 for the version that serves", labels=["alias", "version"])
        loaded = GaugeMetricFamily("mealrec_model_loaded_time_seconds", "When it began to serve", labels=["alias"])
        for alias in self.models.aliases:
            try:
                served = self.models.get(alias)
            except NoModel:
                continue
            info.add_metric([alias, served.version], 1)
            loaded.add_metric([alias], served.loaded_time.timestamp())
        counts = self.models.counts
        yield info
        yield loaded
        yield CounterMetricFamily("mealrec_model_swaps", "Times an alias moved here", value=counts.swaps)
        yield CounterMetricFamily("mealrec_model_refused", "Versions not fit to serve", value=len(counts.refused))
        yield CounterMetricFamily("mealrec_registry_unreachable", "Asks without an answer", value=counts.unreachable)


class Measured:
    """ASGI middleware: counts every request once, by the template of its route, never by its raw path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, noting)
            finally:
                route = getattr(scope.get("route"), "path", OTHER)
                method = scope["method"] if scope["method"] in ("GET", "POST") else OTHER
                self.metrics.requests.labels(method, route, status).inc()
                self.metrics.seconds.labels(route).observe(time.perf_counter() - began)
