"""Latency of `mealrec serve` on a quiet machine: p50 and p99 at a given rate, beside an empty handler of Ray Serve.

    python benchmarks/latency.py --rate 50 --seconds 60 [--set serve.direct=true --set serve.compiled=true]

Makes a lake of made-up viewers and videos with an untrained model of the default size (what the weights are makes no difference
to speed), starts `mealrec serve` as a user would and sends open-loop (Poisson) requests: a request's latency counts from when
it was due. The floor is the same load on a Ray Serve deployment that answers two bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mealrec.bench.quality import commit_of
from mealrec.bench.results import hardware
from mealrec.config import RunConfig, override
from mealrec.data.packed import Packed, save_user_ids, training_part
from mealrec.data.split import leave_one_out
from mealrec.lake import Lake, Provenance
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.presets import preset
from mealrec.schema import ITEMS, SCHEMAS, SEQUENCES
from mealrec.training import bundle

RESULT = Path(__file__).parent / "results" / "latency.json"
MIX = {"viewer": 0.7, "history": 0.1, "event": 0.2}
FIRST_MS = 1_769_000_000_000
FRAMES, WIDTHS = 8, {"visual": 384, "audio": 0, "text": 384}
LONGEST, MEAN = 60, 7  # of the made-up histories, as long as MicroLens-50k's


def made_up(folder: Path, videos: int, viewers: int) -> Packed:
    """A packed dataset of random content and histories of MicroLens-50k's lengths; popularity falls as 1 / rank."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    lengths = np.minimum(4 + rng.geometric(1 / (MEAN - 3), viewers), LONGEST)
    weight = 1 / np.arange(1, videos + 1)
    order = rng.permutation(videos) + 1
    rows = [np.unique(order[rng.choice(videos, n, p=weight / weight.sum())]) for n in lengths]
    sequence = np.concatenate([rng.permutation(row) for row in rows]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    mask = np.ones((videos + 1, FRAMES), dtype=bool)
    mask[0] = False
    available = np.ones((videos + 1, 3), dtype=bool)
    available[0], available[:, 1] = False, False
    content = {name: (videos + 1, FRAMES, n) if name != "text" else (videos + 1, n) for name, n in WIDTHS.items()}
    arrays = {name: rng.standard_normal(shape, dtype=np.float32).astype(np.float16) for name, shape in content.items()}
    arrays |= {
        "position": np.tile(np.arange(FRAMES) / FRAMES, (videos + 1, 1)).astype(np.float32),
        "times": np.where(mask, np.arange(FRAMES) * 500, -1).astype(np.int64),
        "frame_mask": mask,
        "available": available,
        "train_count": np.bincount(
            training_part(sequence, offsets, leave_one_out(offsets))[0], minlength=videos + 1
        ).astype(np.int64),
        "sequence": sequence,
        "offsets": offsets,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    save_user_ids(folder, [f"u{n}" for n in range(viewers)])
    (folder / "items.json").write_text(json.dumps([f"v{n}" for n in range(1, videos + 1)]))
    (folder / "meta.json").write_text(json.dumps({"held_out": 2, "tokens": "frames", "versions": {}}))
    return Packed.open(folder)


def lake_of(data: Packed, config: RunConfig, scratch: Path, changes: dict[str, Any]) -> None:
    """Tables and a champion: what `mealrec serve` needs."""
    from mealrec.registry import flavour, promotion
    from mealrec.registry.tracking import Tracker

    lake = Lake(config.lake)
    ids = data.item_ids()
    none = {"interactions": 1, "viewers": 1, "first_seen_ms": 0, "last_seen_ms": 0}
    items = [{"video_id": video, "item_index": at, **none} for at, video in enumerate(ids, start=1)]
    lake.write(ITEMS, pa.Table.from_pylist(items, schema=SCHEMAS[ITEMS]), Provenance("sequences", "items"))
    rows = []
    for at, user in enumerate(data.user_ids(range(data.viewers))):
        steps = np.asarray(data.sequence[data.offsets[at] : data.offsets[at + 1]]).tolist()
        row = {"user_id": user, "item_index": steps, "timestamp_ms": [FIRST_MS - 1000 + n for n in range(len(steps))]}
        row |= {"session_start": [True] * len(steps), "length": len(steps), "bucket": 0}
        rows.append(row | {"temporal_valid_start": 0, "temporal_test_start": 0})
    lake.write(SEQUENCES, pa.Table.from_pylist(rows, schema=SCHEMAS[SEQUENCES]), Provenance("sequences", "rows"))
    torch.manual_seed(0)
    model = MealRec(ModelSettings(**{**data.content.dims, "width": 64, **changes}))
    torch.nn.init.normal_(model.npd.residual.weight, std=0.1)  # it starts at zero: as if trained
    made = bundle.write(model, data, scratch / "bundle")
    tracker = Tracker(config.registry, lake.work)
    run = tracker.start("train", "latency", "latency")
    version = promotion.register(tracker, flavour.log_model(tracker, run, made), run, {}).version
    tracker.client.set_registered_model_alias(config.registry.model_name, promotion.CHAMPION, version)


@contextlib.contextmanager
def served(command: list[str], log: Path) -> Iterator[str]:
    """A server process that prints its address once it is ready."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().decode().strip()
            if not address.startswith("http"):
                raise SystemExit(f"the server did not start: {log.read_text()[-3000:]}")
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()
            process.wait()


def empty_handler(port: int) -> None:
    """The floor: Ray Serve with the options of ours and a handler that does nothing. Runs until SIGTERM."""
    from mealrec.cluster import before_ray_is_imported

    before_ray_is_imported()
    import ray
    from fastapi import FastAPI, Response
    from ray import serve

    app = FastAPI()

    async def nothing() -> Any:
        return Response(b"{}", media_type="application/json")

    app.post("/{path:path}")(nothing)

    @serve.deployment(max_ongoing_requests=40, ray_actor_options={"num_cpus": 1})
    @serve.ingress(app)
    class Empty:
        pass

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    options = {"host": "127.0.0.1", "port": port}
    serve.start(http_options=options, logging_config={"log_level": "WARNING", "enable_access_log": False})
    serve.run(Empty.bind(), name="floor", route_prefix="/")
    print(f"http://127.0.0.1:{port}", flush=True)
    signal.sigwait([signal.SIGTERM])


class Client:
    """Keep-alive connections, one request at a time on each: as little of the machine as a load can take."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self.host, self.port = host, int(port)
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
        head = f"POST {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(raw.split("content-length:")[1].split("\r\n")[0])
        answer = await reader.readexactly(length)
        self.idle.append((reader, writer))
        return int(raw.split()[1]), answer


async def load(address: str, data: Packed, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Open-loop arrivals for so long; latency in ms by kind, statuses, and what was left out."""
    draw, client = random.Random(seed), Client(address)
    took: dict[str, list[float]] = {kind: [] for kind in MIX}
    statuses: dict[int, int] = {}
    skipped = 0

    async def one(kind: str, due: float, number: int) -> None:
        nonlocal skipped
        path, asked = request(kind, draw, data, number)
        status, answer = await client.post(path, json.dumps(asked).encode())
        took[kind].append(1000 * (time.perf_counter() - due))
        statuses[status] = statuses.get(status, 0) + 1
        skipped += b'"skipped":[]' not in answer and kind != "event" and len(answer) > 2

    began, due, tasks, number = time.perf_counter(), 0.0, set[asyncio.Task[None]](), 0
    while (due := due + draw.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
        kind = draw.choices(list(MIX), list(MIX.values()))[0]
        tasks.add(asyncio.create_task(one(kind, began + due, number)))
        number += 1
    await asyncio.gather(*tasks)
    figures = {kind: percentiles(values) for kind, values in took.items()}
    every = [ms for values in took.values() for ms in values]
    return {"all": percentiles(every), **figures, "statuses": statuses, "answered_with_less": skipped}


def request(kind: str, draw: random.Random, data: Packed, number: int) -> tuple[str, dict[str, Any]]:
    user, video = f"u{draw.randrange(data.viewers)}", f"v{1 + draw.randrange(data.items)}"
    if kind == "viewer":
        return "/recommend", {"user_id": user, "k": 20}
    if kind == "history":
        return "/recommend", {"history": [f"v{1 + draw.randrange(data.items)}" for _ in range(10)], "k": 20}
    event = {"event_id": f"{os.getpid()}-{number}-{secrets.token_hex(4)}", "user_id": user, "video_id": video}
    return "/events", {"events": [event | {"event_type": "like", "timestamp": FIRST_MS + number}]}


def percentiles(values: list[float]) -> dict[str, float]:
    marks = {f"p{q}": round(float(np.percentile(values, q)), 2) for q in (50, 90, 99)}
    return {"requests": len(values), **marks, "max": round(max(values), 2)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_compiled(address: str, longest_s: float = 900.0) -> None:
    end = time.monotonic() + longest_s
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{address}/metrics") as answer:
            if re.search(r'mealrec_model_compiled\{alias="champion".*\} 1\.0', answer.read().decode()):
                return
        time.sleep(1)
    raise SystemExit(f"the champion was not compiled after {longest_s:g} s")


def measured(command: list[str], data: Packed, given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    with served(command, scratch / "server.log") as address:
        if "serve.compiled=true" in command:
            await_compiled(address)
        asyncio.run(load(address, data, given.rate, given.warm_up, 1))
        return asyncio.run(load(address, data, given.rate, given.seconds, 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=10.0, help="seconds of load before it counts")
    parser.add_argument("--videos", type=int, default=19_220)
    parser.add_argument("--viewers", type=int, default=20_000)
    parser.add_argument("--model", action="append", default=[], metavar="KEY=VALUE", help="a model setting, as JSON")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the server")
    parser.add_argument("--no-floor", action="store_true", help="leave the empty handler out")
    parser.add_argument("--keep", type=Path, help="where the made-up lake is kept between runs")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--empty-handler", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.empty_handler:
        empty_handler(given.empty_handler)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        scratch = given.keep or Path(temporary)
        changes = {key: json.loads(value) for key, _, value in (entry.partition("=") for entry in given.model)}
        config = override(preset("production"), [f"lake={scratch / 'lake'}"])
        if not (scratch / "packed").is_dir():
            print("making the lake and its model", file=sys.stderr, flush=True)
            lake_of(made_up(scratch / "packed", given.videos, given.viewers), config, scratch, changes)
        data, before = Packed.open(scratch / "packed"), os.getloadavg()
        port = str(free_port())
        command = [sys.executable, "-m", "mealrec.cli", "serve", "--preset", "production", "--lake", config.lake]
        journal = f'serve.journal="{Path(temporary) / "events"}"'
        settings = [part for entry in (journal, *given.set) for part in ("--set", entry)]
        ours = measured([*command, "--port", port, *settings], data, given, Path(temporary))
        floor = None
        if not given.no_floor:
            again = [sys.executable, __file__, "--empty-handler", str(free_port())]
            floor = measured(again, data, given, Path(temporary))
    result = {
        "command": "python benchmarks/latency.py " + " ".join(sys.argv[1:]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit_of(),
        "hardware": hardware(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "videos": data.items,
        "viewers": data.viewers,
        "rate": given.rate,
        "seconds": given.seconds,
        "mix": MIX,
        "latency_ms": ours,
        "empty_handler_ms": floor,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(f"p50 {ours['all']['p50']} ms, p99 {ours['all']['p99']} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
