"""One server in the foreground: start it, say when it answers, stop it with us. Needs the standard library alone.

Every script beside this file is a list of settings and one call of `serve`. The server writes to our stderr; stdout gets the
single line `ready ...`.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
GRACE_S = 30.0


class Refused(Exception):
    """The user asked for something that we do not start; the message says what would do."""


def serve(
    command: Sequence[str],
    ready: Callable[[], str | None],
    *,
    environment: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    user: str | None = None,
    timeout_s: float = 180.0,
) -> int:
    """Run `command` until it ends or we are told to stop; print what `ready` returns once that is no longer None.

    SIGTERM and SIGINT become `stop` for the server, SIGKILL after a while. Nothing of it outlives us, also when we are
    killed ourselves. Returns the exit status: 0 when we were told to stop, 1 when the server ended by itself or did not
    answer within `timeout_s`.
    """
    told: list[int] = []

    def tell(number: int, frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    server = subprocess.Popen(
        list(command),
        env=dict(os.environ) | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        start_new_session=True,
        user=user,
    )
    release = _end_with_us(server.pid)
    try:
        return _watch(server, ready, told, stop, time.monotonic() + timeout_s)
    finally:
        _end(server, stop)
        release()


def _watch(
    server: subprocess.Popen[bytes],
    ready: Callable[[], str | None],
    told: list[int],
    stop: signal.Signals,
    until: float,
) -> int:
    said = False
    while not told:
        if server.poll() is not None:
            print(f"{_name(server)} ended with status {server.returncode}", file=sys.stderr)
            return 1
        if not said and (line := ready()) is not None:
            print(line, flush=True)
            said = True
        elif not said and time.monotonic() > until:
            print(f"{_name(server)} did not answer in time", file=sys.stderr)
            return 1
        time.sleep(0.1)
    return 0


def _end(server: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    """Ask, then kill what is left of its process group: a server may have started others."""
    if server.poll() is None:
        server.send_signal(stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _end_with_us(group: int) -> Callable[[], None]:
    """A small process that kills the server's process group when our end of a pipe closes: it does when we are SIGKILLed.

    Returns the call that lets it go."""
    read, write = os.pipe()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.setsid()
        os.close(write)
        if os.read(read, 1) == b"":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        os._exit(0)
    os.close(read)
    return lambda: (os.write(write, b"."), os.close(write), None)[-1]


def _name(server: subprocess.Popen[bytes]) -> str:
    return " ".join(str(part) for part in server.args[:4])  # type: ignore[index]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_wide(host: str, protected: bool, remedy: str) -> None:
    """Raises Refused when others could reach `host` and nothing asks them who they are."""
    if not is_loopback(host) and not protected:
        raise Refused(f"--host {host} can be reached by others and there is no authentication: {remedy}")


def answers(url: str, auth: str | None = None) -> bool:
    """Whether a GET of this http:// address is answered with 200; `auth` is user:password."""
    parts = urlsplit(url)
    headers = {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()} if auth else {}
    connection = http.client.HTTPConnection(reachable(parts.hostname or LOOPBACK), parts.port, timeout=5)
    try:
        connection.request("GET", parts.path or "/", headers=headers)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def reachable(host: str) -> str:
    """Where to knock for a server that listens on `host`: a wildcard address is no destination."""
    return LOOPBACK if host in ("0.0.0.0", "::") else host  # noqa: S104 (compared, not bound)


def run(main: Callable[[], int]) -> None:
    """Call a script's main; a refusal is one line and exit status 2."""
    try:
        sys.exit(main())
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
