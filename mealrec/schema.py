"""Every table's Arrow schema and every column name, once.

Timestamps are int64 UTC milliseconds. Delta has no float16 and no fixed-size list, so token arrays are float16 bytes in
a binary column beside their shape columns.
"""

from __future__ import annotations

import pyarrow as pa

# fields of a record in the raw event files (landing/events/, JSONL, CSV or Parquet)
EVENT_COLUMNS = ("event_id", "user_id", "video_id", "event_type", "timestamp", "watch_ms", "duration_ms", "device")
# catalogue file (landing/catalogue.jsonl | .csv | .parquet); uri and title may be null
CATALOGUE_COLUMNS = ("video_id", "uri", "title")

INTERACTIONS = "interactions"
QUARANTINE = "quarantine"
INPUTS = "inputs"
ITEMS = "items"
SEQUENCES = "sequences"
FEATURES = "features"
RECOMMENDATIONS = "recommendations"
PROMOTIONS = "promotions"
PROFILES = "profiles"
ACCEPTANCES = "acceptances"

SCHEMAS: dict[str, pa.Schema] = {
    INTERACTIONS: pa.schema(
        [
            ("event_id", pa.string()),
            ("user_id", pa.string()),
            ("video_id", pa.string()),
            ("event_type", pa.string()),
            ("timestamp_ms", pa.int64()),
            ("session_id", pa.string()),
            ("session_start_ms", pa.int64()),
            ("session_position", pa.int32()),
            ("watch_ms", pa.int64()),
            ("duration_ms", pa.int64()),
            ("watch_ratio", pa.float64()),
            ("is_positive", pa.bool_()),
            ("device", pa.string()),
            ("event_date", pa.string()),  # partition, UTC day YYYY-MM-DD
        ]
    ),
    QUARANTINE: pa.schema(
        [
            ("reason", pa.string()),
            ("key", pa.string()),  # event_id or video_id when it could be read
            ("detail", pa.string()),
            # the raw record as it came, of Parquet as JSON. extract: the video's catalogue row as JSON and, where it would be
            # rejected again as it is, its file's size and time and what it was tried with; a row of the catalogue that names no
            # video as it came
            ("payload", pa.string()),
            ("source_file", pa.string()),
            ("line", pa.int64()),  # 1-based line (Parquet: row) in source_file; null where there is none
            ("stage", pa.string()),  # partition: sessionize | extract
            # partition. extract: day of the run. sessionize: day of the event, or undated-<day of its file> where the
            # record has no time to believe; `undated` without a day in the file's name
            ("ingest_date", pa.string()),
        ]
    ),
    # what `interactions` was made from: how a night finds what is new
    INPUTS: pa.schema(
        [
            ("kind", pa.string()),  # file: a raw event file; day: a day of interactions; video: one of the catalogue
            ("name", pa.string()),  # the file's path below events/, the day, the video_id
            ("size", pa.int64()),  # of a file, bytes
            ("mtime_ns", pa.int64()),
            ("days", pa.list_(pa.string())),  # of a file: days that its records fall on, rejected ones too
            ("sessions", pa.int64()),  # of a day: sessions that start on it
            ("positive", pa.int64()),
        ]
    ),
    ITEMS: pa.schema(
        [
            ("video_id", pa.string()),
            ("item_index", pa.int64()),  # 1..N, dense, append-only; 0 is padding
            ("interactions", pa.int64()),
            ("viewers", pa.int64()),
            ("first_seen_ms", pa.int64()),
            ("last_seen_ms", pa.int64()),
        ]
    ),
    SEQUENCES: pa.schema(
        [
            ("user_id", pa.string()),
            ("item_index", pa.list_(pa.int64())),  # chronological, positive interactions, one a (viewer, video)
            ("timestamp_ms", pa.list_(pa.int64())),
            ("session_start", pa.list_(pa.bool_())),  # true where a session begins
            ("length", pa.int32()),
            ("temporal_valid_start", pa.int32()),  # first position at or after the global validation time
            ("temporal_test_start", pa.int32()),  # first position at or after the global test time
            ("bucket", pa.int32()),  # partition: hash of user_id
        ]
    ),
    FEATURES: pa.schema(
        [
            ("video_id", pa.string()),
            ("encoder_digest", pa.string()),
            ("content_hash", pa.string()),  # SHA-256 of the file's bytes ("" without one) : SHA-256 of the title
            ("source_stat", pa.string()),  # size:mtime_ns:uri of its file or object: unchanged means not read again
            ("status", pa.string()),  # ok | partial (a modality is absent, see absent)
            ("absent", pa.list_(pa.string())),  # of: video, audio, text, with its reason: "audio:no_audio_stream"
            ("visual", pa.binary()),  # float16 [visual_frames, visual_dim]
            ("visual_frames", pa.int32()),
            ("visual_dim", pa.int32()),
            ("token_times_ms", pa.list_(pa.int64())),  # time of each visual frame
            ("audio", pa.binary()),  # float16 [audio_slots, audio_dim], slots aligned to the frames
            ("audio_slots", pa.int32()),
            ("audio_dim", pa.int32()),
            ("text", pa.binary()),  # float16 [text_dim], pooled title
            ("text_tokens", pa.binary()),  # float16 [text_token_count, text_dim], sub-words in order
            ("text_token_count", pa.int32()),
            ("text_dim", pa.int32()),
            ("duration_ms", pa.int64()),
            ("declared_frames", pa.int64()),  # what the container says; 0: nothing
            ("decoded_frames", pa.int64()),  # what was really decoded of the frames asked for
            ("thumbnails", pa.list_(pa.binary())),  # JPEG, one a frame; empty when thumbnail_height is 0
            ("decode_warnings", pa.list_(pa.string())),
            ("bucket", pa.int32()),  # partition: hash of video_id
        ]
    ),
    RECOMMENDATIONS: pa.schema(
        [
            ("user_id", pa.string()),
            ("video_ids", pa.list_(pa.string())),  # best first
            ("scores", pa.list_(pa.float64())),
            ("moments_ms", pa.list_(pa.int64())),  # most salient moment of each video; -1 where it has no frames
            ("model_version", pa.string()),  # partition
        ]
    ),
    PROMOTIONS: pa.schema(
        [
            ("sequence", pa.int64()),  # order of the decisions, over all models of the lake
            ("model", pa.string()),  # registered model's name
            ("action", pa.string()),  # promoted | rolled back | refused
            ("version", pa.string()),  # the version it is about; champion afterwards unless it was refused
            ("from_version", pa.string()),  # the champion before; null when there was none
            ("who", pa.string()),
            ("when", pa.string()),  # ISO 8601, UTC
            ("reasons", pa.list_(pa.string())),  # the gate's words with their figures, or why somebody rolled back
            ("run_id", pa.string()),  # the flow run, empty for a command
        ]
    ),
    # one version a data profile; the commit names the versions of the tables that were looked at
    PROFILES: pa.schema(
        [
            # whole; week: events of the last seven days; recent: of days after the last that the accepted profile knew
            ("part", pa.string()),
            ("group", pa.string()),  # the table, or rows: how many of them
            ("name", pa.string()),  # the quantity
            ("kind", pa.string()),  # count | share | classes | time
            ("labels", pa.list_(pa.string())),  # classes: their names; else empty
            # count: one figure. share: how many, of how many. classes: rows of each. time: first and last, UTC ms
            ("counts", pa.list_(pa.int64())),
        ]
    ),
    ACCEPTANCES: pa.schema(
        [
            ("sequence", pa.int64()),  # order of the decisions
            ("profile", pa.int64()),  # version of `profiles` that training may go on from
            ("who", pa.string()),
            ("when", pa.string()),  # ISO 8601, UTC
            ("why", pa.string()),
            ("run_id", pa.string()),  # the flow run, empty for a command
        ]
    ),
}

PARTITIONS: dict[str, tuple[str, ...]] = {
    INTERACTIONS: ("event_date",),
    QUARANTINE: ("stage", "ingest_date"),
    INPUTS: (),
    ITEMS: (),
    SEQUENCES: ("bucket",),
    FEATURES: ("bucket",),
    RECOMMENDATIONS: ("model_version",),
    PROMOTIONS: (),
    PROFILES: (),
    ACCEPTANCES: (),
}

# reason codes of the quarantine table; the simulator's truth uses the same words
EVENT_REASONS = (
    "unparseable",  # not a record of its file's format
    "oversize_field",  # a line, identifier or device longer than sessionize.max_line_bytes or max_field_bytes
    "missing_key",  # event_id, user_id, video_id or timestamp absent or empty
    "bad_type",  # a field is of the wrong type
    "impossible_time",  # before sessionize.earliest
    "future",  # at or after sessionize.latest, or later than its file by more than sessionize.clock_skew_minutes
    "too_late",  # older than its file by more than sessionize.late_days
    "negative_watch",
    "watch_too_long",  # watch_ms / duration_ms above sessionize.max_watch_ratio
    "bad_duration",  # duration_ms zero or negative
    "unknown_event_type",
    "unknown_video",  # video_id is not in the catalogue
    "duplicate_event",  # same viewer, UTC day and event_id, later copy
    "duplicate_content",  # same viewer, video, event type and time under another event_id
    "bot_like_rate",  # a day on which a viewer passes sessionize.bot_events_a_minute
)
# "interaction" is what public sets give: a positive signal of unstated kind
EVENT_TYPES = ("view", "like", "share", "favorite", "comment", "interaction")
# rows of the catalogue that name no video
CATALOGUE_REASONS = (
    "unparseable",  # not a record of its file's format
    "oversize_field",  # a line or field of megabytes
    "missing_key",  # video_id absent or empty
    "bad_type",  # a field is of the wrong type
    "duplicate_video",  # an earlier row names this video_id
)
VIDEO_REASONS = (
    "missing_file",
    "empty_file",
    "not_a_video",  # magic bytes of no known container
    "too_large",
    "too_long",
    "too_many_pixels",
    "too_many_frames",
    "too_many_streams",
    "unreadable",  # the container can't be opened
    "changed_while_read",  # the file changed or went away between the look at it and the end of its decoding
    "no_video_stream",
    "undecodable",  # opened, but no frame decodes
    "decode_timeout",  # the child was killed at its deadline
    "decoder_crashed",
    "uri_not_allowed",
    "unreachable",  # the object store did not give it
    "not_encoded",  # decoded, but an encoder failed on it
    "no_content",  # neither a video nor a title
)
