"""Robustness: what is done to the histories or the content of a trained model at test time (R1, R2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mealrec.evaluation.ranking import Scorer
from mealrec.model.content import Content
from mealrec.model.inference import Gather
from mealrec.model.layers import rms_norm

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the history
STRANGERS = "replace=0.3"  # the one under which plug-ins are compared on every backbone
TRAINED_ON = "train_replace="  # a variant's name is this and the share of the training interactions that were replaced
POORER = (("noise", 1.0), ("tokens", 0.5), ("video", 0.5), ("title", 0.5))


def corrupted(scorer: Scorer, kind: str, share: float, popularity: Tensor, seed: int, max_history: int) -> Scorer:
    """The scorer on histories of which each item is, with probability `share`, replaced by a popularity-sampled one
    (`replace`), dropped (`drop`), or followed by one (`insert`; what is then older than the newest max_history falls out). R1.

    The same histories are corrupted alike for every model and in every batch: draws depend on (seed, history). Raises
    ValueError for another kind."""
    if kind not in ("replace", "drop", "insert"):
        raise ValueError(f"unknown corruption {kind!r}; valid: replace, drop, insert")

    def score(history: Tensor) -> Tensor:
        rows = [_corrupt(row, kind, share, popularity, seed)[-max_history:] for row in history]
        return scorer(pad_sequence(rows, batch_first=True, padding_side="left").to(history.device))

    return score


def _corrupt(row: Tensor, kind: str, share: float, popularity: Tensor, seed: int) -> Tensor:
    """The items of a corrupted history, without padding, on the CPU."""
    items = row[row > 0].cpu()
    place = torch.arange(1, len(items) + 1)
    rng = torch.Generator().manual_seed(seed * 1_000_003 + int((items * place).sum()) % 2**31)
    hit = torch.rand(len(items), generator=rng) < share
    strangers = torch.multinomial(popularity.cpu().float(), max(len(items), 1), replacement=True, generator=rng)
    strangers = strangers[: len(items)]
    if kind == "replace":
        return torch.where(hit, strangers, items)
    if kind == "drop":
        return items[~hit] if not bool(hit.all()) else items[-1:]
    kept = torch.stack([items, torch.where(hit, strangers, 0)], 1).reshape(-1)
    return kept[kept > 0]


def poorer(gather: Gather, kind: str, level: float, seed: int) -> Callable[[Tensor], Content]:
    """Content with Gaussian `noise` of that size on its tokens, a share of tokens lost (`tokens`), or a share of videos
    without tokens (`video`) or title (`title`). R2. Deterministic in (seed, item). Raises ValueError for another kind."""
    if kind not in ("noise", "tokens", "video", "title"):
        raise ValueError(f"unknown condition {kind!r}; valid: noise, tokens, video, title")

    def gathered(index: Tensor) -> Content:
        content = gather(index)
        draws = [torch.Generator().manual_seed(seed * 7_919 + int(i)) for i in index]
        if kind == "noise":
            noise = torch.stack([torch.randn(content.visual.shape[1:], generator=g) for g in draws])
            return dataclasses.replace(content, visual=rms_norm(content.visual) + level * noise.to(index.device))
        if kind == "tokens":
            lost = torch.stack([torch.rand(content.frame_mask.shape[1], generator=g) < level for g in draws])
            return dataclasses.replace(content, frame_mask=content.frame_mask & ~lost.to(index.device))
        gone = torch.stack([torch.rand(1, generator=g) < level for g in draws])[:, 0]
        nothing = torch.zeros_like(gone)
        drop = [gone, gone, nothing] if kind == "video" else [nothing, nothing, gone]
        return content.without(torch.stack(drop, 1).to(index.device))

    return gathered
