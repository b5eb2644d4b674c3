"""Memory that is freed is kept for the next batch, not given back to the system.

On a CPU encoding takes little more than half the time then, because an encoder's feature maps (tens of MiB each) are not made
of fresh, zeroed pages every time."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30  # at most so much freed memory is kept; larger blocks than this are given back


def keep_freed_memory() -> None:
    """For this process, from now on. A C library without mallopt (musl, macOS) is left as it is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
