"""Frozen visual models of timm, open_clip and transformers, each built from its folder's settings and weights.

A network takes pixels [n, 3, size, size] and gives [n, dim]; a video network takes clips [b, frames, 3, size, size] and gives a
token a pair (or tubelet) of frames, [b, frames / tubelet, dim].
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mealrec.features.encoders.folder import settings, weights_file
from mealrec.features.encoders.weights import WeightsError


@dataclass(frozen=True)
class Network:
    """forward and what it wants: pixels of `size`, scaled to [0, 1], normalised by mean and std. clip: frames that a video
    network takes at once, tubelet: how many of them make a token; 0 and 1 for networks of single frames."""

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: int = 0
    tubelet: int = 1


def from_timm(folder: Path) -> Network:
    """config.json: architecture, model_args, pretrained_cfg (as timm writes it)."""
    _prepare_torchvision()
    import timm

    held = settings(folder, "config.json")
    shown = _part(held, "pretrained_cfg", folder / "config.json")
    architecture = str(_part(held, "architecture", folder / "config.json"))
    if not timm.is_model(architecture):
        raise WeightsError(f"{folder / 'config.json'}: timm knows no architecture {architecture!r}")
    module = timm.create_model(architecture, pretrained=False, **{**held.get("model_args", {}), "num_classes": 0})
    _load(module, load_file(weights_file(folder)), folder, ignored=(str(shown.get("classifier") or "head"),))
    size = int(shown.get("input_size", (3, 224, 224))[1])
    return Network(module, module.forward, size, tuple(shown["mean"]), tuple(shown["std"]))


def from_open_clip(folder: Path) -> Network:
    """open_clip_config.json: model_cfg and preprocess_cfg (as open_clip writes it)."""
    _prepare_torchvision()
    from open_clip import CLIP, CustomTextCLIP

    path = folder / "open_clip_config.json"
    held = settings(folder, path.name)
    model, shown = _part(held, "model_cfg", path), _part(held, "preprocess_cfg", path)
    custom = bool(model.get("custom_text")) or "hf_model_name" in model.get("text_cfg", {})
    module = (CustomTextCLIP if custom else CLIP)(**{k: v for k, v in model.items() if k != "custom_text"})
    _load(module, load_file(weights_file(folder)), folder)
    size = model["vision_cfg"].get("image_size", 224)
    return Network(module, module.encode_image, int(size), tuple(shown["mean"]), tuple(shown["std"]))


def from_transformers(folder: Path) -> Network:
    """config.json and preprocessor_config.json (as transformers writes them): VideoMAE, CLIP, SigLIP, ViT, DINOv2, ..."""
    from transformers import AutoModel

    shown = settings(folder, "preprocessor_config.json")
    path = folder / "preprocessor_config.json"
    mean, std = tuple(_part(shown, "image_mean", path)), tuple(_part(shown, "image_std", path))
    weights_file(folder)
    module, report = AutoModel.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if report["missing_keys"]:
        raise WeightsError(f"{folder}: weights are missing: {', '.join(sorted(report['missing_keys'])[:3])}")
    config = module.config
    size = int(getattr(config, "vision_config", config).image_size)
    if config.model_type == "videomae":
        tokens = config.num_frames // config.tubelet_size

        def of_clips(clips: Tensor) -> Tensor:
            hidden: Tensor = module(clips).last_hidden_state  # [b, tokens * patches, dim], patches fastest
            return hidden.reshape(len(hidden), tokens, -1, hidden.shape[-1]).mean(2)

        return Network(module, of_clips, size, mean, std, config.num_frames, config.tubelet_size)
    if hasattr(module, "get_image_features"):
        return Network(module, lambda x: _pooled(module.get_image_features(pixel_values=x)), size, mean, std)
    return Network(module, lambda x: _pooled(module(pixel_values=x)), size, mean, std)


LIBRARIES: Mapping[str, Callable[[Path], Network]] = {
    "timm": from_timm,
    "open-clip": from_open_clip,
    "transformers": from_transformers,
}


def _pooled(output: Any) -> Tensor:
    """The model's own pooled vector, or the mean over tokens where it has none."""
    if isinstance(output, Tensor):
        return output
    pooled = getattr(output, "pooler_output", None)
    found: Tensor = output.last_hidden_state.mean(1) if pooled is None else pooled
    return found


def _load(module: nn.Module, weights: dict[str, Tensor], folder: Path, ignored: tuple[str, ...] = ()) -> None:
    missing, unexpected = module.load_state_dict(weights, strict=False)
    strange = [k for k in unexpected if not any(k.startswith(f"{name}.") for name in ignored)]
    if missing or strange:
        raise WeightsError(f"{folder}: not the weights of its settings; missing {missing[:3]}, unknown {strange[:3]}")


def _part(held: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in held:
        raise WeightsError(f"{path}: {key!r} is missing; it holds {', '.join(sorted(held))}")
    return held[key]


def _prepare_torchvision() -> None:
    """PyPI's torchvision is compiled for torch with CUDA. Beside torch for CPUs its operators do not load, and its import fails
    at the first that it names, though no encoder calls one: then they are declared, without anything behind them."""
    try:
        importlib.import_module("torchvision")
    except ImportError as error:
        raise WeightsError(f"{error}: install mealrec[encoders]") from None
    except RuntimeError:
        global _declared
        _declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_declared: Any = None  # operators live as long as the object that declares them
