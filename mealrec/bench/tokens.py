"""Ablation A7: the same catalogue with the order or the content of its tokens destroyed."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mealrec.data.arrays import ContentArrays
from mealrec.data.packed import Packed
from mealrec.model.content import Content

How = Literal["ordered", "shuffled", "random", "middle", "other"]


@dataclasses.dataclass(frozen=True)
class Destroyed(ContentArrays):
    """Content arrays whose tokens are shuffled within a video, replaced by noise, cut to the middle one, or taken from
    another video; titles as pooled vectors stay. Deterministic in (how, seed). Memory: N x F indices."""

    how: How = "ordered"
    seed: int = 0

    def gather(self, index: Tensor) -> Content:
        content = super().gather(index)
        if self.how == "other":
            stranger = super().gather(self._partner(index))
            return dataclasses.replace(
                content,
                visual=stranger.visual,
                audio=stranger.audio,
                frame_mask=stranger.frame_mask,
                position=stranger.position,
                available=torch.cat([stranger.available[:, :2], content.available[:, 2:]], 1),
            )
        if self.how == "random":
            noise = [torch.stack([self._noise(int(i), part.shape[1:]) for i in index]) for part in _parts(content)]
            noise = [part.to(index.device) for part in noise]
            return dataclasses.replace(content, visual=noise[0], audio=noise[1])
        if self.how == "middle":
            count = content.frame_mask.sum(1, keepdim=True)
            place = content.frame_mask.long().cumsum(1) - 1
            return dataclasses.replace(content, frame_mask=content.frame_mask & (place == count // 2))
        if self.how == "shuffled":
            masks = content.frame_mask.cpu()
            order = torch.stack([self._order(int(i), m) for i, m in zip(index, masks, strict=True)]).to(index.device)
            turned = [part.gather(1, order[..., None].expand_as(part)) for part in _parts(content)]
            return dataclasses.replace(content, visual=turned[0], audio=turned[1])
        return content

    def _partner(self, index: Tensor) -> Tensor:
        """Each video's stranger: a fixed random permutation of the catalogue."""
        order = np.random.default_rng([self.seed, 1]).permutation(self.items) + 1
        return torch.from_numpy(np.concatenate([[0], order])).to(index.device)[index]

    def _noise(self, item: int, shape: torch.Size) -> Tensor:
        return torch.from_numpy(np.random.default_rng([self.seed, 2, item]).normal(size=tuple(shape))).float()

    def _order(self, item: int, mask: Tensor) -> Tensor:
        """A permutation that moves valid tokens among themselves."""
        valid = mask.nonzero()[:, 0].numpy()
        order = np.arange(len(mask))
        order[valid] = np.random.default_rng([self.seed, 3, item]).permutation(valid)
        return torch.from_numpy(order)


def _parts(content: Content) -> tuple[Tensor, Tensor]:
    return content.visual, content.audio


def destroyed(data: Packed, how: How, seed: int) -> Packed:
    """The same dataset with its tokens treated so; `ordered` leaves it alone."""
    if how == "ordered":
        return data
    content = Destroyed(data.content.root, data.content.arrays, how, seed)
    return dataclasses.replace(data, content=content)
