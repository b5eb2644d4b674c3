"""Requests and answers of the endpoint, with every limit in their types: they are also its OpenAPI schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAX_K, DEFAULT_K = 200, 20
MAX_IDS, MAX_EVENTS = 1000, 100
MAX_ID_LENGTH = 256
MAX_BODY_BYTES = 2**20
LARGEST_MS = 2**53  # what JSON readers agree on

# no control characters, no space, bracket or brace in front: what the nightly validation would reject
ID_PATTERN = r"^[^\x00-\x20\x7f\[{][^\x00-\x1f\x7f]*$"
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=ID_PATTERN, examples=["v00042"])]
Ids = Annotated[list[Id], Field(max_length=MAX_IDS)]


def _whole(value: object) -> object:
    """16.0 is an integer in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]
Milliseconds = Annotated[Whole, Field(ge=0, le=LARGEST_MS)]


class Message(BaseModel):
    """Strict: unknown keys and values of another JSON type are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _one_of(field: str, kind: str, other: str) -> dict[str, Any]:
    return {"required": [field], "properties": {field: {"type": kind}, other: {"type": "null"}}}


class RecommendRequest(Message):
    """Either a viewer or a history. Unknown video ids are left out and counted."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_one_of("user_id", "string", "history"), _one_of("history", "array", "user_id")]}
    )

    user_id: Id | None = Field(None, description="a viewer whose history is known here; an unknown one has none")
    history: Ids | None = Field(None, description="video ids, oldest first, instead of a viewer")
    k: Whole = Field(DEFAULT_K, ge=1, le=MAX_K, description="how many videos at most")
    exclude: Ids = Field(default_factory=list, description="never recommend these")
    only: Ids | None = Field(None, description="recommend from these alone")
    exclude_seen: bool = Field(True, description="leave out what is in the history")

    @model_validator(mode="after")
    def _viewer_or_history(self) -> RecommendRequest:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give exactly one of user_id and history")
        return self


class Recommended(Message):
    """One video; moment_ms: its most salient moment, null where it has no frames."""

    video_id: str
    score: float
    moment_ms: int | None


class RecommendAnswer(Message):
    """Best first; fewer than k where nothing is left."""

    # a field that starts with model_ is ours, not pydantic's
    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    videos: list[Recommended]
    history_length: int = Field(description="videos of the history that the model knows")
    unknown: int = Field(description="video ids of the request or the viewer's history that the model does not know")
    fallback: Literal["empty_history", "unknown_videos"] | None = Field(
        description="why the list is by recent popularity alone: no history, or none of its videos is known; else null"
    )
    skipped: list[Literal["tcd", "rerank", "npd"]] = Field(
        description="left out because the request had waited too long"
    )
    unusual: float = Field(description="how far NPD moved the viewer's state, relative to its length: 0 is not at all")


class Event(Message):
    """One event as in the landing files; event_id makes sending it again harmless."""

    event_id: Id
    user_id: Id
    video_id: Id
    event_type: Literal["view", "like", "share", "favorite", "comment", "interaction"]
    timestamp: Milliseconds = Field(description="UTC milliseconds")
    watch_ms: Milliseconds | None = None
    duration_ms: Annotated[Whole, Field(ge=1, le=LARGEST_MS)] | None = None
    device: str | None = Field(None, max_length=64)


class EventsRequest(Message):
    """All of them are accepted or none."""

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS)


class EventsAnswer(Message):
    """accepted: now on disk; duplicates: their event_id was accepted before."""

    accepted: int
    duplicates: int


class SalientFrame(Message):
    """A frame's time and its weight; the weights of a video sum to 1."""

    time_ms: int
    weight: float


class SalienceAnswer(Message):
    """frames is empty for a video without any. Weights are for the viewer where one was given, else general."""

    model_config = ConfigDict(protected_namespaces=())

    model_version: str
    video_id: str
    user_id: str | None
    frames: list[SalientFrame]
    moment_ms: int | None


class Health(Message):
    """An answer at all means alive; ready: a model is loaded and viewer states answer."""

    model_config = ConfigDict(protected_namespaces=())

    ready: bool
    model_version: str | None
    loaded: str | None = Field(description="UTC time at which the version began to serve")
    age_s: float | None = Field(description="seconds since then")
    problem: str | None


class FieldProblem(Message):
    """Where, what is wrong with what was given (cut short), and what would be right."""

    field: str
    problem: str
    given: str


class Problem(Message):
    """Every answer from 400 on."""

    error: str
    fields: list[FieldProblem] = Field(default_factory=list)


def problem(error: str, *fields: FieldProblem) -> dict[str, Any]:
    return Problem(error=error, fields=list(fields)).model_dump()
