"""A visual encoder chosen by settings: LIBRARY:NAME, where NAME is a local folder or a hub's model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mealrec.config import digest
from mealrec.features.encoders.folder import folder_digest, model_folder
from mealrec.features.encoders.libraries import LIBRARIES
from mealrec.features.encoders.protocol import Half
from mealrec.features.encoders.weights import WeightsError, device

PREPROCESSING = "rgb / 255, normalised by the folder's mean and std, stretched to a square; video: a frame a tubelet"
BATCH = 32  # frames at a time


def chosen_digest(visual: str, frame_size: int, frames: int) -> str:
    library, _, name = visual.partition(":")
    return digest(library, folder_digest(model_folder(name)), PREPROCESSING, frame_size, frames)


class Chosen:
    """Encodes frames uint8 [n, size, size, 3] to float16 [n, dim], on the GPU when there is one.

    A video network sees each frame for a whole tubelet, so that it gives a token a frame; the frames of one call are one video
    in order. More frames than it takes are cut into clips, the last of which is filled up with its last frame."""

    def __init__(self, visual: str, frame_size: int, frames: int) -> None:
        library, _, name = visual.partition(":")
        self.name, self.digest = visual, chosen_digest(visual, frame_size, frames)
        try:
            network = LIBRARIES[library](model_folder(name))
        except ImportError as error:
            raise WeightsError(f"features.visual={visual!r}: {error}; install mealrec[encoders]") from None
        if network.size != frame_size:
            raise WeightsError(
                f"features.visual={visual!r} takes {network.size} pixels: set features.frame_size={network.size}"
            )
        self.network, self.device = network, device()
        network.module.eval().to(self.device)
        self.mean, self.std = (
            torch.tensor(v, device=self.device, dtype=torch.float32).view(3, 1, 1) for v in (network.mean, network.std)
        )
        self.dim = self.encode(np.zeros((1, frame_size, frame_size, 3), np.uint8)).shape[1]

    @torch.inference_mode()
    def encode(self, batch: npt.NDArray[Any]) -> Half:
        pixels = torch.tensor(batch).to(self.device).permute(0, 3, 1, 2).float()
        pixels = (pixels / 255 - self.mean) / self.std
        if self.network.clip:
            return _half(self._video(pixels))
        return _half(torch.cat([self.network.forward(part) for part in torch.split(pixels, BATCH)]))

    def _video(self, pixels: Tensor) -> Tensor:
        tokens = self.network.clip // self.network.tubelet
        n = len(pixels)
        filled = torch.cat([pixels, pixels[-1:].expand(-n % tokens, -1, -1, -1)])
        clips = filled.repeat_interleave(self.network.tubelet, 0).reshape(-1, self.network.clip, *pixels.shape[1:])
        return torch.cat([self.network.forward(clip[None])[0] for clip in clips])[:n]


def _half(values: Tensor) -> Half:
    return np.asarray(values.float().cpu().numpy(), dtype=np.float16)
