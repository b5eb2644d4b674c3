"""Frames kept beside the lake stand in for decoding, bit for bit, or are made again."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mealrec.config import FeaturesConfig
from mealrec.features.encoders import EncoderSet, build
from mealrec.features.kept_frames import KeptFrames
from mealrec.features.limits import limits_of
from mealrec.features.rows import Outcome, Seconds, Wanted, decoder_for, describe, file_hash

pytestmark = pytest.mark.media

CONFIG = FeaturesConfig(frames=2, frame_size=64, text="none", thumbnail_height=16)


@pytest.fixture(scope="module")
def encoders() -> EncoderSet:
    return build(CONFIG)


def described(
    folder: Path, encoders: EncoderSet, kept: Path | None, config: FeaturesConfig = CONFIG
) -> tuple[Outcome, Seconds]:
    spent, wanted = Seconds(), [Wanted(n, f"{n}.mp4", None, "") for n in ("sound", "short_sound", "cut")]
    decoder = decoder_for(encoders, config)
    assert decoder is not None
    with decoder:
        held = KeptFrames(kept, decoder.sampling(), limits_of(config)) if kept else None
        return describe(wanted, folder, config, encoders, decoder, spent, held), spent


def test_rows_from_kept_frames_are_those_of_decoding(tmp_path: Path, clips: Path, encoders: EncoderSet) -> None:
    without, _ = described(clips, encoders, None)
    first, spent = described(clips, encoders, tmp_path)
    assert spent.from_kept == 0
    second, spent = described(clips, encoders, tmp_path)
    assert spent.from_kept == 2
    assert first == second == without
    assert second.features[0]["audio"] and second.features[1]["absent"] == ["audio:audio_short", "text:no_title"]


def test_they_go_by_content_not_by_name_and_broken_ones_are_made_again(
    tmp_path: Path, clips: Path, encoders: EncoderSet
) -> None:
    kept, folder = tmp_path / "kept", tmp_path / "clips"
    shutil.copytree(clips, folder)
    described(folder, encoders, kept)
    shutil.copy(folder / "short_sound.mp4", folder / "sound.mp4")
    changed, spent = described(folder, encoders, kept)
    assert spent.from_kept == 2 and changed.features[0]["visual"] == changed.features[1]["visual"]
    for file in kept.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:100])
    again, spent = described(folder, encoders, kept)
    assert spent.from_kept == 1, "the first one is made again, and stands for the second"
    assert again == changed


def test_a_sound_whose_encoding_is_not_finite_is_absent(tmp_path: Path, clips: Path, encoders: EncoderSet) -> None:
    decoder = decoder_for(encoders, CONFIG)
    assert decoder is not None
    with decoder:
        decoded = decoder.decode(clips / "sound.mp4")
        assert decoded.sound is not None
        loud = replace(decoded, sound=np.full_like(decoded.sound, 1e25))
        KeptFrames(tmp_path, decoder.sampling(), limits_of(CONFIG)).put(file_hash(clips / "sound.mp4"), loud)
    found, spent = described(clips, encoders, tmp_path)
    row = found.features[0]
    assert spent.from_kept == 1 and row["visual"]
    assert (row["audio"], row["audio_slots"], row["absent"]) == (None, 0, ["audio:not_finite", "text:no_title"])


def test_frames_of_a_video_that_passed_higher_limits_are_not_used(
    tmp_path: Path, clips: Path, encoders: EncoderSet
) -> None:
    described(clips, encoders, tmp_path)
    higher, lower = (CONFIG.model_copy(update={"max_seconds": seconds}) for seconds in (2000.0, 1.5))
    assert described(clips, encoders, tmp_path, higher)[1].from_kept == 2
    found, spent = described(clips, encoders, tmp_path, lower)
    assert spent.from_kept == 0 and [row["reason"] for row in found.quarantine][:2] == ["too_long", "too_long"]


def test_halves_that_killed_workers_left_are_swept_once_they_are_old(tmp_path: Path) -> None:
    folder = KeptFrames(tmp_path, {}, {}).folder / "ab"
    folder.mkdir(parents=True)
    for name in (".old.safetensors.1f", ".young.safetensors.1f", "whole.safetensors"):
        (folder / name).touch()
        if "young" not in name:
            os.utime(folder / name, times=(time.time() - 86_400,) * 2)
    KeptFrames(tmp_path, {}, {})
    assert sorted(p.name for p in folder.iterdir()) == [".young.safetensors.1f", "whole.safetensors"]


def test_other_sampling_is_kept_apart(tmp_path: Path) -> None:
    one, other = ({"frames": n, "size": 64, "audio_rate": 0, "audio_samples": 0} for n in (2, 3))
    assert KeptFrames(tmp_path, one, {}).folder != KeptFrames(tmp_path, other, {}).folder


def test_where_they_can_not_be_kept_the_video_is_none_the_worse(
    tmp_path: Path, clips: Path, encoders: EncoderSet
) -> None:
    (tmp_path / "file").touch()
    found, spent = described(clips, encoders, tmp_path / "file")
    assert len(found.features) == 2 and spent.from_kept == 0
