"""Frozen encoders: what they give, what their digests cover, and that only checked weights are opened."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mealrec.cluster import before_ray_is_imported
from mealrec.config import FeaturesConfig
from mealrec.features.encoders import EncoderSet, audio, build, digest_of, registry, text, visual
from mealrec.features.encoders.audio import FFT, RATE, SAMPLES, mel_filters
from mealrec.features.encoders.weights import WeightsError, checked, device, load_tensors, package_file

CONFIG = FeaturesConfig(frame_size=64, text_tokens=4)


@pytest.fixture(scope="module")
def encoders() -> EncoderSet:
    torch.set_num_threads(1)
    return build(CONFIG)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def tone(hertz: float, samples: int = 20_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def test_a_frame_is_1280_numbers_that_do_not_depend_on_its_batch(encoders: EncoderSet) -> None:
    assert encoders.visual is not None
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    together = encoders.visual.encode(frames)
    assert (together.shape, together.dtype) == ((3, 1280), np.float16)
    assert np.isfinite(together).all() and together.std() > 0.05
    alone = encoders.visual.encode(frames[1:2])[0]
    np.testing.assert_allclose(alone, together[1], atol=2e-3)
    assert np.array_equal(encoders.visual.encode(frames), together), "the same batch gives the same bytes"


def test_similar_sounds_are_nearer_than_different_ones(encoders: EncoderSet) -> None:
    assert encoders.audio is not None
    noise = np.random.default_rng(0).normal(0, 0.2, 20_000).astype(np.float32)
    low, near, hiss = encoders.audio.encode(np.stack([tone(440), tone(450), noise]))
    assert (low.shape, low.dtype) == ((512,), np.float16)
    assert cosine(low, near) > cosine(low, hiss) + 0.1


@pytest.mark.parametrize("samples", [1, FFT, 20_000, SAMPLES])
def test_sound_of_any_length_up_to_the_longest_is_encoded(encoders: EncoderSet, samples: int) -> None:
    assert encoders.audio is not None
    encoded = encoders.audio.encode(tone(440, samples)[None])
    assert encoded.shape == (1, 512) and np.isfinite(encoded).all()


def test_a_mel_filter_answers_its_own_frequency() -> None:
    filters = mel_filters().numpy()
    assert filters.shape == (FFT // 2 + 1, 96)
    np.testing.assert_allclose(filters.sum(0), 1, atol=1e-5)
    peaks = filters.argmax(0)
    assert (np.diff(peaks) >= 0).all() and peaks[0] <= 2 and peaks[-1] > 900


def test_a_title_is_a_pooled_vector_and_its_sub_words_in_order(encoders: EncoderSet) -> None:
    assert encoders.text is not None
    two, long, empty = encoders.text.encode(["red dog", "one two three four five six seven eight", ""])
    assert (two.pooled.shape, two.tokens.shape, long.tokens.shape) == ((384,), (2, 384), (4, 384))
    assert (empty.pooled.shape, empty.tokens.shape) == ((384,), (0, 384))
    assert two.pooled.dtype == two.tokens.dtype == np.float16


def test_titles_keep_their_places_whatever_their_lengths_and_batch(encoders: EncoderSet) -> None:
    assert encoders.text is not None
    titles = [f"a dish number {i} " + "with rice " * (i % 7) for i in range(70)]
    encoded = encoders.text.encode(titles)
    for i in (0, 33, 69):
        alone = encoders.text.encode([titles[i]])[0]
        assert cosine(alone.pooled, encoded[i].pooled) > 0.999
        np.testing.assert_allclose(alone.tokens, encoded[i].tokens, atol=0.02)


def test_a_title_is_nearer_to_its_kind(encoders: EncoderSet) -> None:
    assert encoders.text is not None
    noodles, soup, cars = (t.pooled for t in encoders.text.encode(["fried noodles", "noodle soup recipe", "fast cars"]))
    assert cosine(noodles, soup) > cosine(noodles, cars)


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 4},
        {"frame_size": 96},
        {"text_tokens": 5},
        {"thumbnail_height": 0},
        {"visual": "none"},
        {"audio": "none"},
        {"text": "none"},
    ],
)
def test_whatever_decides_the_features_changes_the_digest(change: dict[str, object]) -> None:
    assert digest_of(CONFIG.model_copy(update=change)) != digest_of(CONFIG)


def test_where_pictures_are_not_encoded_frames_still_decide_the_windows_of_sound() -> None:
    sound = CONFIG.model_copy(update={"visual": "none"})
    titles = sound.model_copy(update={"audio": "none"})
    for change in ({"frames": 4}, {"frame_size": 96}):
        assert digest_of(sound.model_copy(update=change)) != digest_of(sound)
        assert digest_of(titles.model_copy(update=change)) == digest_of(titles)


def test_what_does_not_decide_the_features_leaves_the_digest(encoders: EncoderSet) -> None:
    assert digest_of(CONFIG.model_copy(update={"actors": 9, "batch_videos": 9, "decode_deadline_s": 9.0})) == digest_of(
        CONFIG
    )
    assert encoders.digest == digest_of(CONFIG)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (visual, ("SHA256", "PREPROCESSING")),
        (audio, ("SHA256", "RATE", "FFT", "HOP", "MELS", "STEPS")),
        (text, ("SHA256",)),
        (registry, ("METHOD",)),
    ],
)
def test_other_weights_preprocessing_or_sampling_are_another_digest(module: ModuleType, names: tuple[str, ...]) -> None:
    digests = {digest_of(CONFIG)}
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, f"another {name}")
            digests.add(digest_of(CONFIG))
    assert len(digests) == 1 + len(names)


def test_weights_that_are_not_the_ones_that_were_checked_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, path)
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checked(path, right) == path
    assert load_tensors(path, right)["a"].shape == (2,)
    with pytest.raises(WeightsError, match=r"weights\.pth: SHA-256"):
        load_tensors(path, "0" * 64)


def test_weights_that_carry_code_are_refused_even_with_the_right_digest(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("this must not run",)

    path = tmp_path / "weights.pth"
    torch.save({"a": Payload()}, path)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_tensors(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_an_absent_package_is_named() -> None:
    with pytest.raises(WeightsError, match="no_such_package"):
        package_file("no_such_package", "weights.pth")


def test_what_is_switched_off_is_not_loaded() -> None:
    off = build(FeaturesConfig(visual="none", audio="none", text="none"))
    assert (off.visual, off.audio, off.text) == (None, None, None)


def test_a_gpu_is_used_where_there_is_one_and_actors_that_ask_for_none_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would hide a node's GPU from actors of which it shares none out; several of them encode on one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device() == torch.device("cuda")
    monkeypatch.delenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
    before_ray_is_imported()
    assert os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "0"
