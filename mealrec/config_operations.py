"""Settings of a model at work: the endpoint that serves it and how its input is watched. And the base of all settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mealrec.redaction import holds_password


class Settings(BaseModel):
    """Base of all settings: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _holds_no_password(cls, value: Any) -> Any:
        """Settings are kept and shown: in MLflow, as a flow run's parameters, in reports."""
        if isinstance(value, str) and holds_password(value):
            raise ValueError(
                "a URI here must not hold a password: settings are stored with every run. Give it by environment "
                "(PGPASSWORD, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY)"
            )
        return value


class ServeConfig(Settings):
    """The online endpoint: where it listens and what a request may ask."""

    host: str = Field("127.0.0.1", min_length=1, description="address to bind; off loopback a token is required")
    port: int = Field(8080, ge=1, le=65535)
    replicas: int = Field(1, ge=1, description="processes that hold the model")
    direct: bool = Field(
        False, description="answer from one process, without Ray Serve, which nothing starts again when it dies"
    )
    compiled: bool = Field(
        False,
        description="make native code of the champion, a minute of a core at the lowest priority (needs a C++ compiler); until "
        "then, and without one, it answers as it is",
    )
    token_file: str | None = Field(
        None, description="file with the bearer token; None: environment variable MEALREC_SERVE_TOKEN"
    )
    journal: str | None = Field(None, description="folder of accepted events; None: events/ of the landing folder")
    poll_s: float = Field(5.0, gt=0, description="seconds between looks at the registry's aliases and the lake")
    max_in_flight: int = Field(32, ge=1, description="requests a replica holds; one more is answered with 503")
    deadline_ms: int = Field(
        250,
        ge=1,
        description="a request that waited longer is answered without NPD; one and a half times as long: nor re-rank; twice: "
        "nor TCD",
    )
    rerank: int = Field(
        0, ge=0, le=1000, description="how many of the best are scored again as the viewer sees them; 0: none"
    )
    benchmarks: str | None = Field(
        None, description="result file of `mealrec bench quality` whose rows the page shows as ablations"
    )

    @model_validator(mode="after")
    def _one_process_is_one(self) -> ServeConfig:
        if self.direct and self.replicas > 1:
            raise ValueError(f"direct answers from one process, so replicas must be 1 (given: {self.replicas})")
        return self


class IndexConfig(Settings):
    """How the best videos for a viewer are looked up, in batch and by the endpoint."""

    kind: Literal["exact", "hnsw"] = Field("exact", description="exact | hnsw (approximate; needs the extra `index`)")
    effort: int = Field(
        256, ge=1, description="candidates that an approximate search keeps: more find more and cost more"
    )
    min_recall: float = Field(
        0.98, gt=0, le=1, description="below this share of the true best videos the approximate index is not used"
    )
    states: int = Field(256, ge=1, description="viewers it is measured with, their histories drawn by popularity")


class Bounds(Settings):
    """From where a quantity is worth a look (warn), and from where somebody has to look (alarm)."""

    warn: float = Field(gt=0)
    alarm: float = Field(gt=0)

    @model_validator(mode="after")
    def _alarm_is_above_warn(self) -> Bounds:
        if self.alarm <= self.warn:
            raise ValueError(f"alarm={self.alarm:g} must be above warn={self.warn:g}")
        return self


class DriftConfig(Settings):
    """What is compared with the champion's training data, on how many rows, and how much it may move."""

    psi: Bounds = Field(Bounds(warn=0.1, alarm=0.25), description="shares of classes: population stability index")
    ks: Bounds = Field(Bounds(warn=0.15, alarm=0.3), description="numbers: Kolmogorov-Smirnov statistic, 0 to 1")
    share: Bounds = Field(Bounds(warn=0.05, alarm=0.15), description="difference of two shares")
    duration: Bounds = Field(Bounds(warn=2.0, alarm=4.0), description="seconds over the median of earlier runs")
    significance: float = Field(1e-3, gt=0, lt=0.5, description="a move that chance makes this often is none")
    events: int = Field(50_000, ge=100, description="sampled events a side")
    videos: int = Field(2_000, ge=10, description="sampled videos a side")
    viewers: int = Field(400, ge=10, description="sampled viewers a side, scored by the champion")
