"""Visual encoders by settings: real architectures with random weights, saved as a hub would give them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mealrec.config import ConfigError, FeaturesConfig, load
from mealrec.features.encoders import build, digest_of
from mealrec.features.encoders.weights import WeightsError
from mealrec.features.rows import Seconds, Wanted, decoder_for, describe

SIZE = 32
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
Reference = Callable[[torch.Tensor], torch.Tensor]


def pixels(frames: np.ndarray) -> torch.Tensor:
    """Normalised by hand."""
    scaled = torch.from_numpy(frames.astype(np.float32) / 255)
    return ((scaled - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def transformers_folder(folder: Path, kind: str) -> Reference:
    import transformers

    small: dict[str, Any] = {"image_size": SIZE, "patch_size": 16, "hidden_size": 16, "intermediate_size": 32}
    small |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "videomae":
        model = transformers.VideoMAEModel(transformers.VideoMAEConfig(**small, num_frames=4, tubelet_size=2))
        reference = lambda x: model.eval()(x).last_hidden_state  # noqa: E731
    elif kind == "clip":
        config = transformers.CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config=small, projection_dim=8)
        model = transformers.CLIPModel(config)
        reference = lambda x: model.eval().get_image_features(pixel_values=x).pooler_output  # noqa: E731
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**small))
        reference = lambda x: model.eval()(x).pooler_output  # noqa: E731
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return reference


def timm_folder(folder: Path, kind: str) -> Reference:
    pytest.importorskip("timm", reason="needs mealrec[encoders]", exc_type=ImportError)
    import timm

    torch.manual_seed(0)
    arguments = {"img_size": SIZE, "patch_size": 16}
    model = timm.create_model(kind, pretrained=False, num_classes=10, **arguments)
    save_file(model.state_dict(), folder / "model.safetensors")
    shown = {"mean": MEAN, "std": STD, "input_size": [3, SIZE, SIZE], "classifier": "head"}
    (folder / "config.json").write_text(
        json.dumps({"architecture": kind, "model_args": arguments, "num_classes": 10, "pretrained_cfg": shown})
    )
    return lambda x: model.eval().forward_head(model.forward_features(x), pre_logits=True)


def open_clip_folder(folder: Path, kind: str) -> Reference:
    pytest.importorskip("open_clip", reason="needs mealrec[encoders]", exc_type=ImportError)
    from open_clip import CLIP

    torch.manual_seed(0)
    vision = {"image_size": SIZE, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    settings = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    model = CLIP(**settings)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": settings, "preprocess_cfg": {"mean": MEAN, "std": STD}})
    )
    return lambda x: model.eval().encode_image(x)


MAKERS = {"transformers": transformers_folder, "timm": timm_folder, "open-clip": open_clip_folder}
MODELS = [("transformers", "clip"), ("transformers", "vit"), ("timm", "vit_tiny_patch16_224"), ("open-clip", "ViT")]


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """timm and open_clip are imported by the makers too."""
    from mealrec.features.encoders import libraries

    with contextlib.suppress(WeightsError):  # not installed: the tests that need it say so
        libraries._prepare_torchvision()


@pytest.fixture
def video_model(tmp_path: Path) -> tuple[Path, Reference]:
    return tmp_path, transformers_folder(tmp_path, "videomae")


def config(library: str, folder: Path, **others: Any) -> FeaturesConfig:
    return FeaturesConfig(
        **{"visual": f"{library}:{folder}", "frame_size": SIZE, "audio": "none", "text": "none"} | others
    )


@pytest.mark.parametrize(("library", "kind"), MODELS)
def test_a_model_of_a_library_gives_what_the_library_itself_gives(tmp_path: Path, library: str, kind: str) -> None:
    reference = MAKERS[library](tmp_path, kind)
    visual = build(config(library, tmp_path)).visual
    assert visual is not None
    encoded = visual.encode(FRAMES)
    with torch.inference_mode():
        expected = reference(pixels(FRAMES)).numpy()
    assert encoded.dtype == np.float16 and encoded.shape == (3, visual.dim)
    np.testing.assert_allclose(encoded, expected, atol=5e-3)
    assert expected.std() > 0.05, "random weights, but no constant"


def test_a_video_model_gives_a_token_a_frame_that_knows_the_others(video_model: tuple[Path, Reference]) -> None:
    folder, reference = video_model
    visual = build(config("transformers", folder)).visual
    assert visual is not None
    encoded = visual.encode(FRAMES[:2])
    with torch.inference_mode():
        hidden = reference(pixels(FRAMES[:2]).repeat_interleave(2, 0)[None])[0]  # 2 tokens of 4 patches
    np.testing.assert_allclose(encoded, hidden.unflatten(0, (2, 4)).mean(1).numpy(), atol=5e-3)
    assert visual.encode(FRAMES).shape == (3, 16), "a second clip, filled up with its last frame"
    np.testing.assert_array_equal(visual.encode(FRAMES)[:2], encoded)
    other = visual.encode(np.stack([FRAMES[0], FRAMES[2]]))
    assert np.abs(other[0].astype(np.float32) - encoded[0]).max() > 1e-3


def test_the_digest_is_of_the_files_bytes_wherever_they_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    transformers_folder(first, "vit")
    shutil.copytree(first, second)
    before = digest_of(config("transformers", first))
    assert digest_of(config("transformers", second)) == before
    assert build(config("transformers", first)).digest == before
    assert digest_of(config("transformers", first, frames=3)) != before
    (second / "preprocessor_config.json").write_text(json.dumps({"image_mean": STD, "image_std": STD}))
    assert digest_of(config("transformers", second)) != before
    shutil.copytree(first, second, dirs_exist_ok=True)
    weights = bytearray((second / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (second / "model.safetensors").write_bytes(weights)
    assert digest_of(config("transformers", second)) != before


def test_a_video_ends_in_a_row_of_its_width_and_the_mask_says_what_is_absent(
    video_model: tuple[Path, Reference], clips: Path
) -> None:
    chosen = config("transformers", video_model[0], frames=3)
    encoders = build(chosen)
    decoder = decoder_for(encoders, chosen)
    assert decoder is not None
    with decoder:
        outcome = describe([Wanted("v", "silent.mp4", None, "")], clips, chosen, encoders, decoder, Seconds())
    row = outcome.features[0]
    assert (row["visual_frames"], row["visual_dim"], len(row["visual"])) == (3, 16, 3 * 16 * 2)
    assert len(row["token_times_ms"]) == 3
    assert row["absent"] == ["audio:no_audio_stream", "text:no_title"] or row["absent"] == [
        "audio:not_asked",
        "text:no_title",
    ]


def test_pictures_whose_encoding_is_not_finite_are_no_feature(tmp_path: Path, clips: Path) -> None:
    transformers_folder(tmp_path, "vit")
    broken = {k: v * float("nan") for k, v in load_file(tmp_path / "model.safetensors").items()}
    save_file(broken, tmp_path / "model.safetensors", metadata={"format": "pt"})
    chosen = config("transformers", tmp_path)
    encoders = build(chosen)
    decoder = decoder_for(encoders, chosen)
    assert decoder is not None
    with decoder:
        outcome = describe([Wanted("v", "silent.mp4", None, "")], clips, chosen, encoders, decoder, Seconds())
    assert outcome.features == []
    assert [(row["reason"], "not finite" in row["detail"]) for row in outcome.quarantine] == [("undecodable", True)]


def test_a_folder_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    transformers_folder(tmp_path, "vit")
    with pytest.raises(WeightsError, match=r"set features\.frame_size=32"):
        build(config("transformers", tmp_path, frame_size=64))
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"preprocessor_config\.json.*'image_mean' is missing"):
        build(config("transformers", tmp_path))
    shutil.copy(tmp_path / "model.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"found model\.safetensors, other\.safetensors"):
        digest_of(config("transformers", tmp_path))
    for weights in tmp_path.glob("*.safetensors"):
        weights.unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickled weights are not read"):
        digest_of(config("transformers", tmp_path))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    transformers_folder(tmp_path, "vit")
    save_file({"strange": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="weights are missing"):
        build(config("transformers", tmp_path))


@pytest.mark.parametrize("wrong", ["clip", "timm:", "keras:resnet", "timm"])
def test_a_setting_that_names_no_encoder_names_the_valid_ones(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"efficientnet-lite0, none, timm:NAME, open-clip:NAME, transformers:NAME"):
        load({"features": {"visual": wrong}})


def test_a_hubs_model_is_the_one_of_the_revision_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's own client keeps what it fetched; nothing is asked of a network."""
    cache = tmp_path / "models--team--tiny"
    digests = {}
    for revision, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        snapshot = cache / "snapshots" / commit
        snapshot.mkdir(parents=True)
        transformers_folder(snapshot, "vit")
        (cache / "refs").mkdir(exist_ok=True)
        (cache / "refs" / revision).write_text(commit)
        if revision == "v2":
            means = {"image_mean": STD, "image_std": STD}
            (snapshot / "preprocessor_config.json").write_text(json.dumps(means))
        digests[revision] = digest_of(config("transformers", snapshot))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, revision in (("team/tiny", "main"), ("team/tiny@v2", "v2"), (f"team/tiny@{'b' * 40}", "v2")):
        assert digest_of(config("transformers", Path(name))) == digests[revision], name
    assert digests["main"] != digests["v2"]
    with pytest.raises(WeightsError, match="'team/tiny@v3' is neither a folder nor"):
        digest_of(config("transformers", Path("team/tiny@v3")))


def test_what_is_neither_a_folder_nor_on_the_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="'nobody/nothing' is neither a folder nor"):
        digest_of(FeaturesConfig(visual="transformers:nobody/nothing"))
