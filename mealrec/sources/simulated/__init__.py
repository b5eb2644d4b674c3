"""A small platform with known truth: viewers with tastes, videos rendered to real mp4 with sound, raw daily logs, faults."""

from mealrec.sources.simulated.platform import simulate
from mealrec.sources.simulated.truth import Truth

__all__ = ["Truth", "simulate"]
