"""Seeds of independent random streams as functions of where a run stands, so that none has to be stored."""

from __future__ import annotations

from collections.abc import Iterable


def mix(parts: Iterable[int]) -> int:
    """A seed from several integers: distinct tuples give unrelated streams."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = (value ^ (part + 0x632BE59BD9B4E019)) * 0xBF58476D1CE4E5B9 % 2**64
        value ^= value >> 29
    return value % 2**63
