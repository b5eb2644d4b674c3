"""Settings of what makes the tables: where events and videos come from, sessions and sequences, decoding and encoding."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from mealrec.config_operations import Bounds, Settings

SourceKind = Literal["simulated", "ninerec", "microlens", "recbole", "kuairec", "kuairand", "landing"]
EventField = Literal["event_id", "user_id", "video_id", "event_type", "timestamp", "watch_ms", "duration_ms", "device"]
TIMES = ("timestamp", "watch_ms", "duration_ms")
# of a column rule's options: the fields that they apply to, and those that say nothing beside them
APPLIES_TO = {
    "unit": TIMES,
    "zone": ("timestamp",),
    "values": tuple(name for name in get_args(EventField) if name not in TIMES),
    "from_content": ("event_id",),
}
REPLACES = {"constant": ("name", "values"), "from_content": ("name", "values", "constant")}
CatalogueField = Literal["video_id", "uri", "title"]
VISUAL_LIBRARIES = ("timm", "open-clip", "transformers")


class ColumnRule(Settings):
    """Where one of our fields stands in a team's own log. A plain text is short for its name."""

    name: str | None = Field(
        None,
        min_length=1,
        description="the log's own name of the field, or in objects of JSON and structs of Parquet its path, such as user.id; "
        "None: ours",
    )
    unit: Literal["s", "ms", "us", "ns"] = Field("ms", description="of timestamp, watch_ms and duration_ms")
    zone: str | None = Field(
        None,
        description="of timestamp: the IANA zone of times that come without one, such as Europe/Berlin; None: they are of the "
        "wrong type. Of an hour that clocks show twice the first counts; a time that they skip is of the wrong type",
    )
    values: dict[str, str] = Field({}, description="the log's values to ours, such as play to view; others stay")
    constant: str | None = Field(None, min_length=1, description="the same value for every row, such as view")
    from_content: bool = Field(
        False, description="event_id alone: made from viewer, video, event type and time, for logs that have none"
    )

    @model_validator(mode="before")
    @classmethod
    def _text_is_a_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, value: str | None) -> str | None:
        try:
            return value and ZoneInfo(value).key
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones
            raise ValueError("no time zone that is known here; write it as Europe/Berlin or UTC") from None

    def said(self) -> set[str]:
        """The options that differ from their defaults."""
        return {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}


class SourceConfig(Settings):
    """Where events and videos come from."""

    kind: SourceKind = Field(
        "landing", description="simulated | ninerec | microlens | recbole | kuairec | kuairand | landing (your own)"
    )
    directory: str | None = Field(
        None,
        description="of a public set: the folder to read; landing: a folder with events/ and catalogue.*",
    )
    videos: int = Field(120, ge=8, description="simulated: number of videos")
    viewers: int = Field(400, ge=8, description="simulated: number of viewers")
    days: int = Field(14, ge=2, description="simulated: days of logs")
    through: str | None = Field(
        None, description="UTC day YYYY-MM-DD: event files of later days, by the day in their names, are left out"
    )
    clips: str | None = Field(None, description="simulated: cut topic segments from this folder of real clips")
    columns: dict[EventField, ColumnRule] = Field(
        {}, description="our field to where it stands in the log; a field that is not named here has our name there"
    )
    catalogue: dict[CatalogueField, Annotated[str, Field(min_length=1)]] = Field(
        {}, description="landing: our field to its name in the catalogue; one that is not named here has our name there"
    )

    @field_validator("through")
    @classmethod
    def _is_a_day(cls, value: str | None) -> str | None:
        return None if value is None else date.fromisoformat(value).isoformat()

    @field_validator("columns")
    @classmethod
    def _options_apply(cls, value: dict[EventField, ColumnRule]) -> dict[EventField, ColumnRule]:
        for field, rule in value.items():
            said = rule.said()
            for option, fields in APPLIES_TO.items():
                if option in said and field not in fields:
                    raise ValueError(f"{field}.{option} means nothing: it applies to {', '.join(fields)}")
            for option, others in REPLACES.items():
                if option in said and (beside := sorted(said & set(others))):
                    raise ValueError(f"{field}.{beside[0]} means nothing beside {field}.{option}")
        return value

    @model_validator(mode="after")
    def _directory_is_given_where_needed(self) -> SourceConfig:
        if self.kind not in ("simulated", "landing") and not self.directory:
            raise ValueError(f"source.kind={self.kind!r} needs source.directory, the folder that holds the set")
        return self

    @model_validator(mode="after")
    def _only_your_own_catalogue_has_other_names(self) -> SourceConfig:
        if self.catalogue and self.kind != "landing":
            raise ValueError(f"source.catalogue is of source.kind='landing': {self.kind!r} writes its catalogue itself")
        return self


class SparkConfig(Settings):
    """How spark-submit is called."""

    master: str = Field(
        "local[*]",
        description="local[*], spark://host:port or k8s://...: executors elsewhere get "
        "our code, and need our Python environment at its path, the landing folder and the lake",
    )
    driver_host: str | None = Field(
        None,
        min_length=1,
        description="address at which executors elsewhere reach this machine; None: as Spark finds it",
    )
    driver_memory: str = Field("2g", pattern=r"^\d+[mg]$")
    shuffle_partitions: int = Field(4, ge=1)
    timeout_s: int = Field(3600, ge=10, description="seconds before the Spark process is stopped")


class SessionizeConfig(Settings):
    """Validation, sessions and sequences."""

    gap_minutes: int = Field(30, ge=1, description="silence after which a new session starts")
    min_watch_ratio: float = Field(
        0.3, ge=0.0, le=1.0, description="watch_ms / duration_ms from which a view is positive"
    )
    positive_events: tuple[Literal["view", "like", "share", "favorite", "comment", "interaction"], ...] = Field(
        ("like", "share", "favorite", "interaction"), description="event types positive whatever was watched"
    )
    max_watch_ratio: float = Field(20.0, gt=0, description="loops watched; a longer watch is quarantined")
    earliest: str = Field("2010-01-01", description="UTC day; an earlier timestamp is quarantined")
    latest: str = Field("2100-01-01", description="UTC day; a timestamp from this day on is quarantined as future")
    late_days: int | None = Field(
        None, ge=0, description="an event this many days older than the day in its file's name is too late; None: never"
    )
    clock_skew_minutes: int | None = Field(
        None, ge=0, description="an event this long after the day in its file's name is from the future; None: never"
    )
    max_field_bytes: int = Field(1024, ge=16, description="a longer identifier or device is quarantined")
    max_line_bytes: int = Field(2**20, ge=1024, le=2**26, description="a longer line of a text file is quarantined")
    bot_events_a_minute: int | None = Field(
        600, ge=1, description="a viewer with more events in one minute is a machine: that day of theirs is quarantined"
    )
    viewer_key_variable: str | None = Field(
        None,
        pattern=r"^[A-Z_][A-Z0-9_]*$",
        description="environment variable with the key that viewers' ids are hashed with (HMAC-SHA256); None: not hashed",
    )
    user_core: int = Field(3, ge=1, description="k-core: least interactions of a viewer")
    item_core: int = Field(1, ge=1, description="k-core: least interactions of a video")
    buckets: int = Field(4, ge=1, description="hash buckets of the sequences table")
    valid_share: float = Field(0.1, gt=0, lt=0.5, description="global temporal split: share of time for validation")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="global temporal split: share of time for test")
    max_quarantine_share: float = Field(
        0.2,
        gt=0,
        le=1.0,
        description="the stage fails before its commit above this share of rejects in the tables as they would be, in 1000 or "
        "more rows that a night reads, or of wholly damaged files among 10 or more new ones",
    )

    @field_validator("earliest", "latest")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        date.fromisoformat(value)
        return value


class ProfileConfig(Settings):
    """How far the tables may move from the last accepted profile before nothing is trained on them: from `alarm` on the stage
    stops, from `warn` on it says so."""

    psi: Bounds = Field(Bounds(warn=0.1, alarm=0.25), description="distributions: population stability index")
    share: Bounds = Field(
        Bounds(warn=0.05, alarm=0.15), description="null rates, quarantine, absent features: difference of two shares"
    )
    fall: Bounds = Field(Bounds(warn=0.2, alarm=0.4), description="counts: by what share of the old figure they fell")
    growth: Bounds = Field(Bounds(warn=1.5, alarm=4.0), description="counts: by what share of the old figure they grew")
    significance: float = Field(1e-3, gt=0, lt=0.5, description="a move that chance makes this often is none")


class FeaturesConfig(Settings):
    """Decoding and encoding of videos."""

    frames: int = Field(8, ge=1, le=64, description="frames sampled a video")
    visual: str = Field(
        "efficientnet-lite0",
        description="efficientnet-lite0 (in the box) | none | timm:NAME | open-clip:NAME | transformers:NAME, where NAME is a "
        "hub's model (name or name@revision) or a folder of safetensors and JSON; these need mealrec[encoders]",
    )
    audio: Literal["aisfx", "none"] = "aisfx"
    text: Literal["minilm", "none"] = "minilm"
    text_tokens: int = Field(8, ge=1, le=128, description="title tokens a video; longer titles are averaged over spans")
    frame_size: int = Field(224, ge=32, le=512, description="pixels, square")
    thumbnail_height: int = Field(96, ge=0, le=256, description="JPEG strip kept for pages; 0 keeps none")
    url_schemes: tuple[Literal["s3", "gs", "abfs"], ...] = Field(
        (),
        description="object stores that catalogue uris may name (scheme://bucket/key); credentials by environment alone",
    )
    keep_frames: bool = Field(
        False,
        description="keep sampled frames and sound below the working folder, so that other encoders need no decoding; raw, "
        "some 2 MB a video of 8 frames",
    )
    decode_deadline_s: float = Field(30.0, gt=0, description="the decoder child is killed after this many seconds")
    max_bytes: int = Field(512 * 2**20, ge=1)
    max_pixels: int = Field(4096 * 2304, ge=1)
    max_seconds: float = Field(1800.0, gt=0)
    max_frames: int = Field(250_000, ge=1, description="frames in the file")
    max_streams: int = Field(16, ge=1, description="pictures, sounds, subtitles, ... in the file")
    actors: int = Field(
        2, ge=1, description="Ray actors that decode and encode, at most: the pool fits itself to the work"
    )
    batch_videos: int = Field(4, ge=1, description="videos an actor takes at a time")
    buckets: int = Field(4, ge=1, description="hash buckets of the features table")
    max_quarantine_share: float = Field(0.5, gt=0, le=1.0)

    @field_validator("visual")
    @classmethod
    def _is_a_visual_encoder(cls, value: str) -> str:
        library, _, name = value.partition(":")
        if value not in ("efficientnet-lite0", "none") and not (library in VISUAL_LIBRARIES and name):
            choices = ", ".join(["efficientnet-lite0", "none", *(f"{known}:NAME" for known in VISUAL_LIBRARIES)])
            raise ValueError(f"must be one of {choices}, NAME being a hub's model or a folder")
        return value
