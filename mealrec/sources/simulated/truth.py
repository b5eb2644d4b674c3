"""What is true of a simulated platform: salient frames, tastes, and what was broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mealrec.sources.landing import SourceError

TRUTH = "truth.json"


class Salience(BaseModel):
    """A video's topic and salient spans."""

    model_config = ConfigDict(frozen=True)

    topic: str
    duration_ms: int
    segments_ms: tuple[tuple[int, int], ...]


class Truth(BaseModel):
    """Written last into the landing folder: its presence marks a whole platform."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    settings: dict[str, str | int]
    rows: dict[str, int]
    quarantine: dict[str, dict[str, int]]  # stage -> reason -> rows
    absent: dict[str, int]  # modality -> decodable videos without it
    broken: dict[str, str]  # video_id -> reason
    salience: dict[str, Salience]
    tastes: dict[str, dict[str, float]]

    @classmethod
    def load(cls, landing: Path) -> Truth:
        """Raises SourceError when the folder holds no truth."""
        path = landing / TRUTH
        if not path.is_file():
            raise SourceError(f"{path} does not exist: this landing folder is not simulated")
        return cls.model_validate_json(path.read_text())

    def salient(self, video_id: str, times_ms: Sequence[int]) -> list[bool]:
        """Whether each moment of a video lies in a salient span."""
        spans = self.salience[video_id].segments_ms
        return [any(start <= t < end for start, end in spans) for t in times_ms]
