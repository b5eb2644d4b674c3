"""Requests that run while something else happens, and whether one of them was dropped."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import httpx


class Asking:
    """Asks the endpoint for one viewer's recommendations over and over in a thread of its own; used as a context."""

    def __init__(self, address: str, user: str, pause_s: float = 0.05) -> None:
        self.address, self.user, self.pause_s = address, user, pause_s
        self.versions: list[str] = []  # of every answer, in order
        self.statuses: Counter[str] = Counter()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def once(self, client: httpx.Client) -> dict[str, Any]:
        answer = client.post(f"{self.address}/recommend", json={"user_id": self.user, "k": 5})
        self.statuses[str(answer.status_code)] += 1
        body: dict[str, Any] = answer.json()
        return body

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                try:
                    self.versions.append(self.once(client).get("model_version", ""))
                except httpx.HTTPError as error:
                    self.statuses[type(error).__name__] += 1
                time.sleep(self.pause_s)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(90)
