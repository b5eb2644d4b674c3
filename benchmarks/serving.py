"""Load on the endpoint while things go wrong: alias moves, a killed node, replica and keeper, malformed requests mixed in.

    python benchmarks/serving.py --lake ./var/demo --rate 50 --seconds 300

Works on a copy of the lake's tables and registry. Two Ray nodes on this machine, one replica on each to begin with. Arrivals
are open-loop (Poisson): a request starts when it is due, however slow the ones before are, and its latency counts from then.
Exit status 1 when an accepted event is lost or doubled, or a 5xx is not the documented 503.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.config import RunConfig, override
from mealrec.lake import Lake
from mealrec.presets import preset

RESULT = Path(__file__).parent / "results" / "serving.json"
FIRST_EVENT_MS = 1_769_000_000_000
MIX = {"viewer": 0.60, "history": 0.10, "events": 0.20, "salience": 0.05, "malformed": 0.05}
MALFORMED: tuple[tuple[str, str, bytes, str], ...] = (  # method, path, body, content type; each must end in 4xx
    ("POST", "/recommend", b"{", "application/json"),
    ("POST", "/recommend", b"\xff", "application/json"),
    ("POST", "/recommend", b'{"user_id": "u1", "k": 100000}', "application/json"),
    ("POST", "/recommend", b'{"user_id": "' + b"u" * 5000 + b'"}', "application/json"),
    ("POST", "/recommend", b" " * (2**20 + 1), "application/json"),
    ("POST", "/events", b'{"events": [{"event_id": "x"}]}', "application/json"),
    ("POST", "/events", b"<events/>", "text/xml"),
    ("GET", "/videos/nobody-knows-it/salience", b"", ""),
    ("DELETE", "/recommend", b"", ""),
    ("GET", "/../../etc/passwd", b"", ""),
)


@dataclass
class Seen:
    """What came back. seconds: from when the request was due to its whole answer, well-formed requests alone."""

    statuses: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    skipped: int = 0
    wrong: list[str] = field(
        default_factory=list
    )  # undocumented 5xx, malformed requests that were let through, no answer


@contextlib.contextmanager
def cluster() -> Iterator[Any]:
    """Two nodes on this machine; yields ray.cluster_utils.Cluster."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_worker_niceness": "0"}
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 80 * 2**20})
    try:
        made.second = made.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def prepared(lake: str, scratch: Path, port: int) -> tuple[RunConfig, list[str]]:
    """A copy of the lake without its videos, with the champion registered a second time; the versions to move between."""
    from mealrec.registry import promotion
    from mealrec.registry.tracking import Tracker

    shutil.copytree(lake, scratch / "lake", ignore=shutil.ignore_patterns("videos", "checkpoints", "packed"))
    config = override(
        preset("demo"), [f"lake={scratch / 'lake'}", "serve.replicas=2", f"serve.port={port}", "serve.poll_s=1"]
    )
    tracker = Tracker(config.registry, Lake(config.lake).work)
    champion = promotion.by_alias(tracker, promotion.CHAMPION)
    assert champion is not None, f"{lake} holds no champion: run `mealrec demo` first"
    tracker.activate()  # registering looks the model up in the store that is active
    source = tracker.client.get_model_version(config.registry.model_name, champion.version).source
    twin = promotion.register(tracker, source, champion.run_id, {})
    return config, [champion.version, twin.version]


def faults(
    config: RunConfig, versions: list[str], nodes: Any, seconds: float
) -> list[tuple[float, str, Callable[[], None]]]:
    """When (s), what, how."""
    import ray
    from ray.util import list_named_actors

    from mealrec.registry.tracking import Tracker

    client = Tracker(config.registry, Lake(config.lake).work).client

    def move(to: str) -> None:
        client.set_registered_model_alias(config.registry.model_name, "champion", to)

    def kill_actor(name: str) -> None:
        found = next(a for a in list_named_actors(all_namespaces=True) if name in a["name"])
        ray.kill(ray.get_actor(found["name"], found["namespace"]), no_restart=False)

    def kill_node() -> None:
        nodes.remove_node(nodes.second, allow_graceful=False)

    def add_node() -> None:
        nodes.second = nodes.add_node(num_cpus=1, object_store_memory=80 * 2**20, wait=False)

    first, second = versions
    plan = [
        (0.10, "alias moves", lambda: move(second)),
        (0.25, "alias moves back", lambda: move(first)),
        (0.35, "node killed", kill_node),
        (0.45, "alias moves", lambda: move(second)),
        (0.55, "node added", add_node),
        (0.65, "replica killed", lambda: kill_actor("SERVE_REPLICA")),
        (0.75, "alias moves back", lambda: move(first)),
        (0.85, "keeper killed", lambda: kill_actor("keeper")),
    ]
    return [(share * seconds, what, how) for share, what, how in plan]


def go_wrong(plan: list[tuple[float, str, Callable[[], None]]], load: Load) -> list[dict[str, Any]]:
    """Do each fault when it is due, in the main thread: Ray starts nodes from there alone. What happened, and when."""
    began, happened = time.monotonic(), []
    for at, what, how in plan:
        time.sleep(max(0.0, began + at - time.monotonic()))
        started = time.monotonic() - began
        print(f"{started:6.1f} s  {what}; so far {dict(load.seen.statuses)}", file=sys.stderr, flush=True)
        how()
        happened.append({"what": what, "at_s": round(started, 1), "done_s": round(time.monotonic() - began, 1)})
    return happened


class Load:
    """Open-loop arrivals against one address."""

    def __init__(self, address: str, viewers: list[str], videos: list[str], rate: float, seconds: float) -> None:
        self.address, self.viewers, self.videos, self.rate, self.seconds = address, viewers, videos, rate, seconds
        self.seen, self.draw, self.liked = Seen(), random.Random(7), dict[str, set[str]]()

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=500, max_keepalive_connections=50)
        async with httpx.AsyncClient(base_url=self.address, timeout=60, limits=limits) as client:
            began, due, tasks = time.monotonic(), 0.0, set[asyncio.Task[None]]()
            while (due := due + self.draw.expovariate(self.rate)) < self.seconds:
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                tasks.add(asyncio.create_task(self._one(client, began + due)))
            await asyncio.gather(*tasks)

    async def _one(self, client: httpx.AsyncClient, due: float) -> None:
        kind = self.draw.choices(list(MIX), list(MIX.values()))[0]
        request, event = self._request(client, kind)
        try:
            answer = await client.send(request)
        except httpx.HTTPError as error:
            self.seen.statuses["no answer"] += 1
            self.seen.wrong.append(f"{kind}: {error!r}")
            return
        self.seen.statuses[str(answer.status_code)] += 1
        status = answer.status_code
        if (status >= 500 and not (status == 503 and "retry-after" in answer.headers)) or (
            kind == "malformed" and status < 400
        ):
            self.seen.wrong.append(f"{kind}: {status} {answer.text[:200]}")
        if kind != "malformed":
            self.seen.seconds.append(time.monotonic() - due)
        if status == 200 and event is not None:
            self.seen.acknowledged.append(event["event_id"])
            self.liked.setdefault(event["user_id"], set()).add(event["video_id"])
        elif status == 200 and kind in ("viewer", "history"):
            self.seen.versions[answer.json()["model_version"]] += 1
            self.seen.skipped += bool(answer.json()["skipped"])

    def _request(self, client: httpx.AsyncClient, kind: str) -> tuple[httpx.Request, dict[str, Any] | None]:
        draw, user = self.draw, self.draw.choice(self.viewers)
        if kind == "viewer":
            return client.build_request("POST", "/recommend", json={"user_id": user, "k": 20}), None
        if kind == "history":
            asked = {"history": draw.choices(self.videos, k=15), "k": 10, "exclude": draw.choices(self.videos, k=3)}
            return client.build_request("POST", "/recommend", json=asked), None
        if kind == "salience":
            path = f"/videos/{draw.choice(self.videos)}/salience"
            return client.build_request("GET", path, params={"user_id": user}), None
        if kind == "malformed":
            method, path, body, content = draw.choice(MALFORMED)
            return client.build_request(method, path, content=body, headers={"content-type": content}), None
        event = {"event_id": f"load-{len(self.seen.sent)}", "user_id": user, "video_id": draw.choice(self.videos)}
        event |= {"event_type": "like", "timestamp": FIRST_EVENT_MS + len(self.seen.sent)}
        self.seen.sent.append(event["event_id"])
        return client.build_request("POST", "/events", json={"events": [event]}), event


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", default="./var/demo", help="a finished run (`mealrec demo`)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch, cluster() as nodes:
        from mealrec.serving.deployment import running

        config, versions = prepared(given.lake, Path(scratch), port)
        lake = Lake(config.lake)
        viewers = lake.read("sequences", columns=["user_id"])["user_id"].to_pylist()
        videos = lake.read("items", columns=["video_id"])["video_id"].to_pylist()
        with running(config, None) as address:
            load = Load(address, viewers, videos, given.rate, given.seconds)
            before = os.getloadavg()
            under_load = threading.Thread(target=lambda: asyncio.run(load.run()))
            under_load.start()
            happened = go_wrong(faults(config, versions, nodes, given.seconds), load)
            under_load.join()
            forgotten = _forgotten(address, load)
        journal = (lake.work / "landing" / "events").glob("served-*.jsonl")
        written = [json.loads(line)["event_id"] for path in sorted(journal) for line in path.read_text().splitlines()]
    result = {**_result(given, load.seen, written, forgotten, before), "faults": happened}
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 1 if load.seen.wrong or result["events"]["lost"] or result["events"]["written_twice"] or forgotten else 0


def _forgotten(address: str, load: Load) -> int:
    """Acknowledged likes of a hundred viewers that the endpoint would still recommend to them."""
    wrong = 0
    with httpx.Client(base_url=address, timeout=60) as client:
        for user in sorted(load.liked)[:100]:
            answer = client.post("/recommend", json={"user_id": user, "k": 200}).json()
            wrong += len(load.liked[user] & {video["video_id"] for video in answer["videos"]})
    return wrong


def _result(
    given: argparse.Namespace, seen: Seen, written: list[str], forgotten: int, before: tuple[float, float, float]
) -> dict[str, Any]:
    p50, p90, p99 = (round(1000 * float(np.percentile(seen.seconds, q)), 1) for q in (50, 90, 99))
    return {
        "command": f"python benchmarks/serving.py --rate {given.rate:g} --seconds {given.seconds:g}",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit_of(),
        "hardware": hardware(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "requests": sum(seen.statuses.values()),
        "by_status": dict(sorted(seen.statuses.items())),
        "by_version": dict(sorted(seen.versions.items())),
        "latency_ms": {"p50": p50, "p90": p90, "p99": p99, "max": round(1000 * max(seen.seconds), 1)},
        "answered_without_tcd_and_npd": seen.skipped,
        "events": {
            "sent": len(seen.sent),
            "acknowledged": len(seen.acknowledged),
            "journalled": len(written),
            "lost": len(set(seen.acknowledged) - set(written)),
            "written_twice": len(written) - len(set(written)),
            "forgotten": forgotten,
        },
        "wrong": seen.wrong[:20],
    }


if __name__ == "__main__":
    sys.exit(main())
