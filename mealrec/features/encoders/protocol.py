"""What every encoder is: a name, a width, a digest of all that decides its output, batch in, float16 rows out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Half = npt.NDArray[np.float16]


class Encoder(Protocol):
    """`digest` covers weights, preprocessing and sampling: equal digests mean interchangeable features."""

    name: str
    dim: int
    digest: str

    def encode(self, batch: npt.NDArray[Any]) -> Half:
        """[n, ...] -> float16 [n, dim]."""
        ...


class Title(NamedTuple):
    """A title's pooled vector [d] and its sub-words in order [m, d]."""

    pooled: Half
    tokens: Half


class TextEncoder(Protocol):
    """Titles to pooled vectors and ordered tokens."""

    name: str
    dim: int
    digest: str

    def encode(self, titles: list[str]) -> list[Title]: ...


@dataclass(frozen=True)
class EncoderSet:
    """The encoders of a run; None where a modality is switched off."""

    visual: Encoder | None
    audio: Encoder | None
    text: TextEncoder | None
    digest: str
