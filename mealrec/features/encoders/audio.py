"""Sound: aiSFX (ISMIR 2022, weights CC BY 4.0), log-mel windows to 512 numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mealrec.config import digest
from mealrec.features.encoders.protocol import Half
from mealrec.features.encoders.weights import device, load_tensors, package_file

WEIGHTS = ("aisfx", "models/checkpoint.pth")
SHA256 = "499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5"
RATE, FFT, HOP, MELS = 44_100, 2048, 1024, 96
STEPS = 100  # of the spectrogram, about 2.3 s: what the network was trained on
SAMPLES = FFT + (STEPS - 1) * HOP
LEAST_STEPS = 16  # the network halves time three times
SCALE = 9.457798957824707  # maximum of the training spectrograms, from the package
DIM = 512


def audio_digest() -> str:
    return digest("aisfx", SHA256, RATE, FFT, HOP, MELS, STEPS, "htk mel, log10(1 + 10000 power), own window length")


class AiSfx:
    """Encodes sound float32 [n, samples] at 44.1 kHz to float16 [n, 512]. Cost is linear in the samples: about 10 ms for a
    window of 0.6 s on one thread."""

    name, dim = "aisfx", DIM

    def __init__(self) -> None:
        from aisfx.models.cnn2d import EmbeddingNet

        self.digest = audio_digest()
        held = load_tensors(package_file(*WEIGHTS), SHA256)[0]
        self.network = EmbeddingNet("max", 3, 1, 64)
        prefix = "embedding_net."
        self.network.load_state_dict({k.removeprefix(prefix): v for k, v in held.items() if k.startswith(prefix)})
        self.device = device()
        self.network.eval().to(self.device)
        self.filters = mel_filters().to(self.device)
        self.window = torch.hann_window(FFT, device=self.device)

    @torch.inference_mode()
    def encode(self, batch: npt.NDArray[Any]) -> Half:
        spectrogram = self.log_mel(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        return np.asarray(self.network(spectrogram).cpu().numpy(), dtype=np.float16)

    def log_mel(self, samples: Tensor) -> Tensor:
        """[n, samples] -> [n, steps, 96] in about [0, 1]; a short window is padded with silence."""
        least = FFT + (LEAST_STEPS - 1) * HOP
        samples = torch.nn.functional.pad(samples, (0, max(least - samples.shape[1], 0)))
        spectrum = torch.stft(samples, FFT, HOP, window=self.window, center=False, return_complex=True)
        power = spectrum.abs().square() / self.window.sum() ** 2 * 4
        return torch.log10(1 + 10_000 * (power.transpose(1, 2) @ self.filters)) / SCALE


def mel_filters() -> Tensor:
    """Triangular HTK-mel filters [FFT / 2 + 1, 96] over 0 .. 22050 Hz, each of unit sum."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    frequency = np.linspace(0, RATE / 2, FFT // 2 + 1)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
    triangles = np.maximum(np.minimum(rising, falling), 0)
    return torch.from_numpy(triangles / np.maximum(triangles.sum(0), 1e-9)).float()
