"""Which frames and which stretches of sound stand for a video. Pure arithmetic."""

from __future__ import annotations


def frame_indices(available: int, wanted: int) -> list[int]:
    """Middle frames of `wanted` equal windows, strictly increasing; all frames when there are no more than wanted."""
    if available <= wanted:
        return list(range(available))
    return [(2 * i + 1) * available // (2 * wanted) for i in range(wanted)]


def window_samples(duration_s: float, windows: int, rate: int, most: int) -> list[tuple[int, int]]:
    """Sample ranges of the equal windows' middles, each at most `most` samples long, all of one length."""
    span = duration_s * rate / max(windows, 1)
    length = max(min(int(span), most), 1)
    return [(start := int(span * (i + 0.5) - length / 2), start + length) for i in range(windows)]
