"""`mealrec serve`: check what is asked before anything starts, then serve until told to stop."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mealrec.cluster import ray_cluster
from mealrec.config import ConfigError, RunConfig, ServeConfig
from mealrec.serving.guard import LOOPBACK

log = logging.getLogger("mealrec.serve")

TOKEN_VARIABLE = "MEALREC_SERVE_TOKEN"  # noqa: S105 - its name
SHORTEST_TOKEN = 16


def serve(config: RunConfig, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what is in flight and stop. `ready` is told the address.

    Raises ConfigError before anything is started when the address or the token is wrong."""
    digest = token_digest(config.serve, os.environ)
    _check_address(config.serve)
    stop = threading.Event()
    if config.serve.direct:
        if config.ray.address:
            raise ConfigError(
                f"serve.direct starts no replica on a Ray cluster: leave ray.address={config.ray.address} out"
            )
        from mealrec.serving import direct

        with _told_by_signals(stop), direct.running(config, digest) as address:
            _until_told(stop, ready, address)
        return
    cpus = max(config.ray.num_cpus, config.serve.replicas)
    # Ray takes SIGTERM for itself when it is initialised, so our handlers come after it
    local = config.ray.model_copy(update={"num_cpus": cpus})
    with ray_cluster(local), _told_by_signals(stop):
        from mealrec.serving.deployment import running  # Ray reads its environment, set just now, when it is imported

        with running(config, digest) as address:
            _until_told(stop, ready, address)


def _until_told(stop: threading.Event, ready: Callable[[str], None], address: str) -> None:
    ready(address)
    stop.wait()
    log.info("stopping once the requests in flight are answered")


def token_digest(settings: ServeConfig, environment: Mapping[str, str]) -> bytes | None:
    """SHA-256 of the token from serve.token_file, else from the environment. Replicas are given the digest, never the token.

    Raises ConfigError when there is none and the address is not loopback, when it is too short, or can't be read."""
    token = environment.get(TOKEN_VARIABLE, "")
    if settings.token_file is not None:
        try:
            token = Path(settings.token_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"serve.token_file: {error}") from None
    if (token or settings.token_file) and (len(token) < SHORTEST_TOKEN or not token.isascii()):
        raise ConfigError(f"the token for serving must be at least {SHORTEST_TOKEN} ASCII characters")
    if not token and settings.host not in LOOPBACK:
        raise ConfigError(
            f"serve.host={settings.host!r} is not loopback ({', '.join(LOOPBACK)}): set {TOKEN_VARIABLE} or "
            "serve.token_file, so that only those who hold the token are answered"
        )
    return hashlib.sha256(token.encode()).digest() if token else None


def _check_address(settings: ServeConfig) -> None:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], found[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        raise ConfigError(f"serve.host={settings.host!r}, serve.port={settings.port}: {error}") from None


@contextlib.contextmanager
def _told_by_signals(stop: threading.Event) -> Iterator[None]:
    def told(number: int, frame: object) -> None:
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
