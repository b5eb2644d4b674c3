"""Every setting of a run, as frozen pydantic models that refuse unknown keys.

The same object is passed to Python callers, built by the command line and shown as a form by Prefect. One seed drives
everything; nothing below reads a clock, the environment or a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mealrec.config_operations import DriftConfig, Settings
from mealrec.config_operations import IndexConfig as IndexConfig
from mealrec.config_operations import ServeConfig as ServeConfig
from mealrec.config_tables import ColumnRule as ColumnRule
from mealrec.config_tables import FeaturesConfig as FeaturesConfig
from mealrec.config_tables import ProfileConfig as ProfileConfig
from mealrec.config_tables import SessionizeConfig as SessionizeConfig
from mealrec.config_tables import SourceConfig as SourceConfig
from mealrec.config_tables import SparkConfig as SparkConfig
from mealrec.model.settings import BackboneName, Npd, Personal, Pooling, Prediction, Start
from mealrec.redaction import redact
from mealrec.training.settings import Matmul, TrainSettings

Device = Literal["cpu", "cuda"]
GateMetric = Literal["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20"]


class RayConfig(Settings):
    """Which Ray cluster to use."""

    address: str | None = Field(
        None, description="None starts a local cluster for the stage; else ray://... or host:port"
    )
    num_cpus: int = Field(2, ge=1, description="CPUs of the local cluster")
    object_store_mb: int = Field(512, ge=80, description="object store of the local cluster, MiB")


class ModelConfig(Settings):
    """Shapes and switches of MealRec (model.md sections 1 to 3)."""

    width: int = Field(64, ge=8, multiple_of=4)
    backbone: BackboneName = Field("sasrec", description="sasrec | gru4rec | bert4rec | nextitnet")
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1, description="attention heads of the backbone; must divide width")
    max_history: int = Field(20, ge=2, description="L, newest items kept")
    dropout: float = Field(0.2, ge=0, lt=1)
    tokens: Literal["frames", "title"] = Field("frames", description="what TCD refines: frames+audio, or title tokens")
    content: bool = Field(True, description="false: IDs alone")
    tcd: Pooling = Field("diffusion", description="diffusion: TCD; attention: without noise; mean: no TCD")
    personal: Personal = Field(
        "denoiser", description="where the viewer enters TCD: the denoiser (dear), or the pooling of refined tokens"
    )
    guidance: bool = Field(True, description="temporal guidance of TCD")
    collaborative: bool = Field(True, description="collaborative condition of TCD")
    diffusion_steps: int = Field(32, ge=4, description="T of TCD")
    refine_steps: int = Field(1, ge=1, description="S, deterministic DDIM steps")
    refine_from: Start = Field("content", description="content: refine the clean tokens; noise: generate")
    predict: Prediction = Field("clean", description="what TCD's network predicts: clean tokens or noise")
    denoiser_layers: int = Field(2, ge=1, description="Transformer layers of TCD's denoiser")
    npd: Npd = Field(
        "blind", description="blind | told the level | state: behind the backbone | augment: no denoiser | off"
    )
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    id_dropout: float = Field(0.1, ge=0, lt=1)
    temperature: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"model.heads={self.heads} must divide model.width={self.width}")
        return self


class TrainConfig(Settings):
    """Optimisation and distribution (model.md section 3)."""

    workers: int = Field(2, ge=1, description="Ray Train workers")
    threads: int = Field(1, ge=1, description="torch threads a worker")
    device: Device = Field(
        "cpu",
        description="cpu; cuda: a GPU for each worker, whose sums have no fixed order: runs are equal but for rounding",
    )
    warmup_epochs: int = Field(30, ge=0, description="S0: everything but TCD and NPD")
    joint_epochs: int = Field(20, ge=1, description="S1: everything")
    batch_size: int = Field(256, ge=1, description="viewers a step over all workers")
    lr: float = Field(1e-3, gt=0)
    joint_lr: float = Field(3e-4, gt=0, description="S1: rate of what S0 trained before")
    weight_decay: float = Field(0.1, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    patience: int = Field(6, ge=1, description="epochs of a stage without a better validation NDCG@10")
    tcd_weight: float = Field(0.1, ge=0)
    npd_weight: float = Field(0.5, ge=0)
    id_weight: float = Field(0.5, ge=0, description="weight of CE(h, y) beside CE(hhat, y)")
    reverse_weight: float = Field(0.5, ge=0, description="weight of predicting the item before, windows read backwards")
    candidate_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of candidates known by content alone in training"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1)
    average: bool = Field(True, description="validate and keep the moving average of the weights")
    negatives: int | None = Field(
        None, ge=0, description="sampled candidates a step; 0: the whole catalogue; None: by its size"
    )
    validation_viewers: int = Field(
        100_000, ge=1, description="viewers ranked after each epoch, evenly spaced where there are more"
    )
    matmul: Matmul = Field(
        "medium",
        description="float32 products in training: highest; high, medium: less exact where the hardware has units for it",
    )
    checkpoint_steps: int = Field(500, ge=0, description="steps of an epoch between checkpoints; 0: at its end alone")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that stay")
    max_failures: int = Field(2, ge=0)
    warm_start: bool = Field(
        False,
        description="begin as the champion, new videos added; afresh where there is none, another kind's or the same data's",
    )
    warm_keep: float = Field(
        0.5, gt=0, le=1, description="share of the champion's weights in such a beginning, the rest a fresh model's"
    )
    warm_patience: int = Field(2, ge=1, description="patience of a run that begins as the champion")

    def settings(self, *, warm: bool = False) -> TrainSettings:
        """What the loop reads; warm: of a run that begins as the champion."""
        own = {f.name: getattr(self, f.name) for f in fields(TrainSettings)}
        return TrainSettings(**own | ({"patience": self.warm_patience} if warm else {}))


class EvaluateConfig(Settings):
    """What is held out, ranking and significance."""

    protocol: Literal["leave-one-out", "temporal"] = Field(
        "leave-one-out", description="leave-one-out: each viewer's last items; temporal: one time for everybody"
    )

    ks: tuple[int, ...] = Field((5, 10, 20), description="cut-offs of HR and NDCG; 10 must be among them")
    bootstrap: int = Field(1000, ge=100, description="paired resamples of viewers")
    strips: int = Field(3, ge=0, description="viewers whose frame strips the report shows")

    @field_validator("ks")
    @classmethod
    def _holds_ten(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if 10 not in value or min(value) < 1:
            raise ValueError("evaluate.ks needs positive cut-offs with 10 among them: reports and the gate speak of it")
        return value


class RegistryConfig(Settings):
    """Where runs and models are registered and what the gate asks."""

    tracking_uri: str | None = Field(None, description="None: SQLite beside the lake")
    model_name: str = Field("mealrec", min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    experiment: str = Field("mealrec", min_length=1)
    gate_metric: GateMetric = "ndcg@10"
    baselines: tuple[Literal["popularity", "markov"], ...] = ("popularity", "markov")
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    against_champion: Literal["not-worse", "better"] = Field(
        "not-worse", description="beyond noise: not-worse lets fresher data in, better asks for a gain"
    )
    min_viewers: int = Field(30, ge=1, description="fewer test viewers decide nothing")
    min_slice_viewers: int = Field(50, ge=1, description="a slice of the champion's report this large must be measured")
    min_coverage: float = Field(0.5, ge=0, le=1, description="share of the champion's catalogue coverage to be kept")
    max_latency_ms: float = Field(2000.0, gt=0, description="95th percentile of one viewer's request, one thread")


class RecommendConfig(Settings):
    """Batch recommendations."""

    k: int = Field(20, ge=1, le=1000)
    alias: Literal["champion", "challenger"] = "champion"


class RunConfig(Settings):
    """A whole run: the parameters of the flow."""

    lake: str = Field("./var/lake", min_length=1, description="root of all tables: a folder or an object-store URI")
    work: str | None = Field(
        None, description="local folder for landing files, checkpoints, reports; None: <lake>/_work"
    )
    seed: int = Field(7, ge=0, lt=2**31)
    source: SourceConfig = SourceConfig()
    spark: SparkConfig = SparkConfig()
    sessionize: SessionizeConfig = SessionizeConfig()
    features: FeaturesConfig = FeaturesConfig()
    profile: ProfileConfig = ProfileConfig()
    ray: RayConfig = RayConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    registry: RegistryConfig = RegistryConfig()
    recommend: RecommendConfig = RecommendConfig()
    serve: ServeConfig = ServeConfig()
    index: IndexConfig = IndexConfig()
    drift: DriftConfig = DriftConfig()


class ConfigError(ValueError):
    """The user's configuration is wrong; the message names the key and the valid ones."""


def digest(*parts: object) -> str:
    """Short SHA-256 over JSON-able parts (settings are dumped first): equal inputs, equal digest, on any machine."""
    plain = [p.model_dump(mode="json") if isinstance(p, BaseModel) else p for p in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load(data: Mapping[str, Any]) -> RunConfig:
    """Validate a nested mapping into a RunConfig.

    Raises ConfigError naming every wrong key or value and, for an unknown key, the valid keys at its place.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def override(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """Apply `section.key=value` settings (values read as JSON, else as text) and validate the whole again.

    Raises ConfigError for a malformed setting, an unknown key or a bad value.
    """
    data = config.model_dump(mode="json")
    for setting in settings:
        path, separator, raw = setting.partition("=")
        if not separator:
            raise ConfigError(f"--set {setting!r}: write key=value, for example train.joint_epochs=5")
        _assign(data, path.strip().split("."), _parse(raw), setting)
    return load(data)


def explain(error: ValidationError) -> str:
    """One line a mistake: the key, what is wrong, the value that was given, the valid keys where one is unknown."""
    lines = []
    for item in error.errors():
        path = [str(p) for p in item["loc"]]
        line = f"{'.'.join(path) or 'configuration'}: {item['msg']} (got {item['input']!r})"
        if item["type"] == "extra_forbidden":
            line = f"{'.'.join(path)}: unknown key; valid keys here: {', '.join(_keys_at(path[:-1]))}"
        lines.append(line)
    return redact("\n".join(lines))


def _parse(raw: str) -> Any:
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return raw


def _assign(data: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    here = data
    for depth, key in enumerate(path[:-1]):
        if not isinstance(here.get(key), dict):
            valid = ", ".join(_keys_at(path[:depth]))
            raise ConfigError(f"--set {setting!r}: {'.'.join(path[: depth + 1])!r} is no section; valid keys: {valid}")
        here = here[key]
    here[path[-1]] = value


def _keys_at(path: list[str]) -> list[str]:
    here: type[BaseModel] = RunConfig
    for key in path:
        inner = here.model_fields[key].annotation if key in here.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        here = inner
    return sorted(here.model_fields)
