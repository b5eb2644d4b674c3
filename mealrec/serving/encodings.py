"""What was encoded of each viewer before, so that a new event costs one video and a repeated question nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor

from mealrec.model.incremental import Encoding


class Held(NamedTuple):
    """A viewer's encoding and, where NPD was asked for, its state [1, D] and how far NPD moved it [1]."""

    encoding: Encoding
    preferred: tuple[Tensor, Tensor] | None


class Encodings:
    """The `most` viewers asked for last; thread-safe. Memory: some 3 x L x D numbers a viewer."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, viewer: str) -> Held | None:
        with self._lock:
            held = self._held.get(viewer)
            if held is not None:
                self._held.move_to_end(viewer)
            return held

    def put(self, viewer: str, held: Held) -> None:
        with self._lock:
            self._held[viewer] = held
            self._held.move_to_end(viewer)
            while len(self._held) > self.most:
                self._held.popitem(last=False)

    def __len__(self) -> int:
        return len(self._held)
