"""The run's page: one HTML file with plots and frame strips, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mealrec.evaluation import plots
from mealrec.evaluation.templates import environment


@dataclass(frozen=True)
class Frame:
    """One token of a video: its weight in [0, 1], when it is (ms, -1 unknown), a JPEG or None."""

    weight: float
    time_ms: int
    jpeg: bytes | None

    @property
    def picture(self) -> str | None:
        return None if self.jpeg is None else "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode()

    @property
    def seconds(self) -> str:
        return "" if self.time_ms < 0 else f"{self.time_ms / 1000:.1f} s"


@dataclass(frozen=True)
class Strip:
    """A video as a row of frames under a viewer's (or nobody's) eyes."""

    video_id: str
    title: str
    frames: Sequence[Frame]
    note: str = ""


@dataclass(frozen=True)
class ViewerPage:
    """A viewer's newest history and what the model recommends."""

    user_id: str
    history: Sequence[Strip]
    recommended: Sequence[Strip]


@dataclass(frozen=True)
class ReportData:
    """What the page shows: report.json's content, stage rows, viewers."""

    title: str
    report: Mapping[str, Any]
    viewers: Sequence[ViewerPage]


def render(data: ReportData, out: Path) -> Path:
    """Write the page. Everything that comes from data is escaped."""
    metrics = data.report["metrics"]["test"]
    names = list(next(iter(metrics.values())))
    html = (
        environment()
        .get_template("report.html")
        .render(
            data=data,
            report=data.report,
            metrics=metrics,
            names=names,
            curves=plots.curves(data.report["curves"]),
            bars=plots.bars(metrics, names),
            slices=plots.slices(data.report["slices"], list(metrics)),
        )
    )
    out.write_text(html, encoding="utf-8")
    return out
