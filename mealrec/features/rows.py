"""One video to one row: of `features` when there is something to learn from, of `quarantine` when not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mealrec import __version__
from mealrec.config import FeaturesConfig, digest
from mealrec.features.decoder import CHILD, Decoded, Decoder, DecoderError
from mealrec.features.encoders import EncoderSet
from mealrec.features.encoders.audio import RATE, SAMPLES
from mealrec.features.encoders.protocol import Title
from mealrec.features.identity import change_since, expect_files_fault, open_regular
from mealrec.features.kept_frames import KeptFrames
from mealrec.features.probe import Probe, VideoRejected
from mealrec.features.remote import NOT_ASKED, local_file

Row = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """A catalogue row that needs features; stat is size:mtime_ns of its file or object, "" where there is none, NOT_ASKED where
    its store did not say."""

    video_id: str
    uri: str | None
    title: str | None
    stat: str


@dataclass
class Seconds:
    """Where the time went; from_kept: videos whose frames were kept by an earlier run and not decoded again."""

    decode: float = 0.0
    encode: float = 0.0
    from_kept: int = 0


@dataclass
class Outcome:
    """What became of a batch of videos."""

    features: list[Row] = field(default_factory=list)
    quarantine: list[Row] = field(default_factory=list)


class EncodersFailed(RuntimeError):
    """The device that the encoders run on failed, or has no memory left: no video is to blame."""


def bucket_of(video_id: str, buckets: int) -> int:
    return zlib.crc32(video_id.encode()) % buckets


def describe(
    wanted: list[Wanted],
    root: Path,
    config: FeaturesConfig,
    encoders: EncoderSet,
    decoder: Decoder | None,
    spent: Seconds,
    kept: KeptFrames | None = None,
) -> Outcome:
    """Probe, decode and encode; every video ends in exactly one of the two lists. Titles are encoded as one batch."""
    outcome = Outcome()
    began = time.monotonic()
    titled = [w for w in wanted if w.title] if encoders.text is not None else []
    titles = encoders.text.encode([w.title or "" for w in titled]) if encoders.text is not None and titled else []
    by_id = {w.video_id: title for w, title in zip(titled, titles, strict=True)}
    spent.encode += time.monotonic() - began
    for one in wanted:
        try:
            row = _row(one, by_id.get(one.video_id), root, config, encoders, decoder, spent, kept)
        except VideoRejected as rejected:
            outcome.quarantine.append(quarantine_row(one, rejected, tried_as(config, encoders.digest)))
        except (OSError, MemoryError, DecoderError):
            raise
        except Exception as error:
            if _is_the_devices(error):
                raise EncodersFailed(f"{one.video_id}: {_told(error)}") from error
            failed = VideoRejected("not_encoded", _told(error), lasting=False)
            outcome.quarantine.append(quarantine_row(one, failed, tried_as(config, encoders.digest)))
        else:
            outcome.features.append(row)
    return outcome


def _is_the_devices(error: Exception) -> bool:
    """torch's own classes for it, by name: old ones are without some of them, and a CUDA error may come as a RuntimeError."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return (
        bool(names & {"OutOfMemoryError", "AcceleratorError"}) or "CUDA" in str(error) or "can't allocate" in str(error)
    )


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, streamed."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def title_hash(title: str | None) -> str:
    return hashlib.sha256((title or "").encode()).hexdigest()


def source_of(one: Wanted) -> str:
    """Size, change time and uri of the video's file or object, by which it is known again unread; "" where there is none, or
    nobody knows."""
    return f"{one.stat}:{one.uri}" if one.stat not in ("", NOT_ASKED) else ""


def reads_file(one: Wanted, config: FeaturesConfig) -> bool:
    """Whether this video's row depends on a file: it names one, and pictures or sound are asked for."""
    return bool(one.uri) and not (config.visual == "none" and config.audio == "none")


def _row(
    one: Wanted,
    title: Title | None,
    root: Path,
    config: FeaturesConfig,
    encoders: EncoderSet,
    decoder: Decoder | None,
    spent: Seconds,
    kept: KeptFrames | None,
) -> Row:
    if one.uri is None and one.title is None:
        raise VideoRejected("no_content", "neither a uri nor a title")
    row = _empty_row(one, encoders.digest, config)
    absent = [] if title is not None else [f"text:{'not_asked' if one.title else 'no_title'}"]
    bytes_hash = ""
    if one.uri is None or decoder is None:
        why = "no_uri" if one.uri is None else "not_asked"
        absent += [f"video:{why}", f"audio:{why}"]
    else:
        with local_file(one.uri, root, config) as found:
            bytes_hash, decoded = _decoded(found, decoder, kept, spent)
        began = time.monotonic()
        absent += _fill_media(row, decoded, encoders, config)
        spent.encode += time.monotonic() - began
    if title is not None:
        row |= {"text": title.pooled.tobytes(), "text_dim": title.pooled.shape[-1]}
        row |= {"text_tokens": title.tokens.tobytes(), "text_token_count": len(title.tokens)}
    row |= {"absent": sorted(absent), "status": "partial" if absent else "ok"}
    row["content_hash"] = f"{bytes_hash}:{title_hash(one.title)}"
    return row


def _decoded(found: Probe, decoder: Decoder, kept: KeptFrames | None, spent: Seconds) -> tuple[str, Decoded]:
    """SHA-256 of the file and what was decoded from these very bytes. Raises VideoRejected, also where the file changed or went
    away since it was probed, and OSError for what is no video's fault."""
    began = time.monotonic()
    try:
        content = file_hash(found.path)
        held = kept.get(content) if kept is not None else None
        decoded = decoder.decode(found.path, found.identity) if held is None else held
        _expect_unchanged(found)
    except VideoRejected:
        _expect_unchanged(found)  # or else that is the reason
        raise
    except OSError as error:
        expect_files_fault(error)
        raise _changed(f"it was there, then: {error.strerror}") from None
    finally:
        spent.decode += time.monotonic() - began
    if held is not None:
        spent.from_kept += 1
    elif kept is not None:
        kept.put(content, decoded)
    return content, decoded


def _expect_unchanged(found: Probe) -> None:
    if (change := change_since(found.identity, found.path)) is not None:
        raise _changed(change)


def _changed(how: str) -> VideoRejected:
    return VideoRejected("changed_while_read", how, lasting=False)


def _empty_row(one: Wanted, encoder_digest: str, config: FeaturesConfig) -> Row:
    return {
        "video_id": one.video_id,
        "encoder_digest": encoder_digest,
        "source_stat": source_of(one),
        "visual": None,
        "visual_frames": 0,
        "visual_dim": 0,
        "token_times_ms": [],
        "audio": None,
        "audio_slots": 0,
        "audio_dim": 0,
        "text": None,
        "text_tokens": None,
        "text_token_count": 0,
        "text_dim": 0,
        "duration_ms": 0,
        "declared_frames": 0,
        "decoded_frames": 0,
        "thumbnails": [],
        "decode_warnings": [],
        "bucket": bucket_of(one.video_id, config.buckets),
    }


def _fill_media(row: Row, decoded: Decoded, encoders: EncoderSet, config: FeaturesConfig) -> list[str]:
    """What is absent, and why; an encoding with an infinity or a NaN in it is no feature. Raises VideoRejected where it is that
    of the pictures."""
    absent = []
    row |= {
        "token_times_ms": decoded.times_ms,
        "duration_ms": decoded.duration_ms,
        "declared_frames": decoded.declared_frames,
        "decoded_frames": len(decoded.frames),
        "decode_warnings": decoded.warnings,
        "thumbnails": _thumbnails(decoded, config.thumbnail_height),
    }
    if encoders.visual is None:
        absent.append("video:not_asked")
    else:
        visual = encoders.visual.encode(decoded.frames)
        if not np.isfinite(visual).all():
            raise VideoRejected("undecodable", "the encoding of its pictures is not finite")
        row |= {"visual": visual.tobytes(), "visual_frames": len(visual), "visual_dim": encoders.visual.dim}
    if encoders.audio is None or decoded.sound is None:
        absent.append(f"audio:{decoded.audio_absent or 'not_asked'}")
    else:
        audio = encoders.audio.encode(decoded.sound)
        if np.isfinite(audio).all():
            row |= {"audio": audio.tobytes(), "audio_slots": len(audio), "audio_dim": encoders.audio.dim}
        else:
            absent.append("audio:not_finite")
    return absent


def _thumbnails(decoded: Decoded, height: int) -> list[bytes]:
    """JPEGs in the video's own aspect; none when height is 0."""
    if height == 0:
        return []
    width = max(round(height * decoded.width / max(decoded.height, 1)), 1)
    return [_jpeg(frame, (min(width, 4 * height), height)) for frame in decoded.frames]


def _jpeg(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).resize(size).save(out, "JPEG", quality=80)
    return out.getvalue()


def tried_as(config: FeaturesConfig, encoders: str) -> str:
    """What decides, beside its bytes, whether a video is rejected."""
    return digest("tried", __version__, config, encoders)


def quarantine_row(one: Wanted, rejected: VideoRejected, tried: str) -> Row:
    """With what has to be the same for the video to be rejected again; without it where the reason may pass."""
    payload = {"video_id": one.video_id, "uri": one.uri, "title": one.title}
    went_away = rejected.reason == "missing_file" and one.stat
    if rejected.lasting and not went_away and one.stat != NOT_ASKED:
        payload |= {"stat": one.stat, "tried_as": tried}
    return {
        "reason": rejected.reason,
        "key": one.video_id,
        "detail": rejected.detail,
        "payload": json.dumps(payload, ensure_ascii=False),
        "source_file": one.uri,
        "line": None,
    }


def decoder_for(encoders: EncoderSet, config: FeaturesConfig) -> Decoder | None:
    """A decoder that gives what the encoders take; None when neither pictures nor sound are asked for.

    The variable MEALREC_DECODER replaces its child's command line, for one in a container (infra/images/decoder.Dockerfile)."""
    if encoders.visual is None and encoders.audio is None:
        return None
    on = encoders.audio is not None
    command = shlex.split(os.environ.get("MEALREC_DECODER", "")) or CHILD
    return Decoder(config, audio_rate=RATE if on else 0, audio_samples=SAMPLES if on else 0, command=command)
