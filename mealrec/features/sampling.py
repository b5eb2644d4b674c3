"""Which frames and which stretches of sound stand for a video. Pure arithmetic."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

# part of the encoders' digest: change both together
METHOD = "middles of equal time windows, no frame twice, sound of their time, by PyAV"
ROUNDING_S = 1e-4  # containers and float32 give a frame's time no better than this


def frame_indices(starts_s: Sequence[float], end_s: float, wanted: int) -> list[int]:
    """Strictly increasing: the frames on screen in the middle of `wanted` windows of equal time; all when there are no more.

    Time, not frame number, decides: a phone's variable frame rate must not crowd the sample into its fast part. Where the
    container's times do not increase, windows of equal frame count are used.
    """
    available = len(starts_s)
    if available <= wanted:
        return list(range(available))
    if any(later <= earlier for earlier, later in pairwise(starts_s)) or end_s <= starts_s[-1]:
        return [(2 * i + 1) * available // (2 * wanted) for i in range(wanted)]
    window = (end_s - starts_s[0]) / wanted
    chosen: list[int] = []
    for i in range(wanted):
        shown = bisect_right(starts_s, starts_s[0] + window * (i + 0.5) + ROUNDING_S) - 1
        after_the_last, before_the_rest = chosen[-1] + 1 if chosen else 0, available - (wanted - i)
        chosen.append(min(max(shown, after_the_last), before_the_rest))
    return chosen


def window_samples(duration_s: float, windows: int, rate: int, most: int) -> list[tuple[int, int]]:
    """Sample ranges of the equal windows' middles, each at most `most` samples long, all of one length."""
    span = duration_s * rate / max(windows, 1)
    length = max(min(int(span), most), 1)
    return [(start := int(span * (i + 0.5) - length / 2), start + length) for i in range(windows)]
