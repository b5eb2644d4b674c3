"""Top-K recommendations from a model bundle; exact, deterministic, the same code in batch, registry and endpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mealrec.data.arrays import ContentArrays
from mealrec.model.inference import plain_state, preference
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.model.top_k import top_k

FORMAT = 3


class BundleError(ValueError):
    """A model bundle is missing a part, damaged, or of another format."""


@dataclass(frozen=True)
class Recommendations:
    """item_index [B, k] int64 best first, scores [B, k] float32, moments_ms [B, k] int64 (-1: the video has no frames).
    Where fewer than k videos are left, item_index is 0 and the score -inf. unusual [B] float32: how far NPD moved the state
    (inference.Preference), 0 where it did not run."""

    item_index: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    moments_ms: npt.NDArray[np.int64]
    unusual: npt.NDArray[np.float32]


class Recommender:
    """A loaded model. Memory: the weights and N x (D + F); the frames stay mapped on disk."""

    def __init__(
        self, model: MealRec, content: ContentArrays, video_ids: list[str], described: Tensor, salience: Tensor
    ) -> None:
        self.model, self.content, self.video_ids = model.eval(), content, video_ids
        self.index = {video: i for i, video in enumerate(video_ids, start=1)}
        self.salience = salience
        popularity = content.log_popularity()
        with torch.no_grad():
            self.catalogue = model.catalogue(described, content.available(), popularity)
        self.popularity = content.train_count().float()
        self.moments = _moments(salience, content.times())

    @classmethod
    def load(cls, directory: Path) -> Recommender:
        """Raises BundleError naming what is wrong."""
        try:
            body = json.loads((directory / "bundle.json").read_text())
            if body.get("format") != FORMAT:
                raise BundleError(f"{directory}: bundle format {body.get('format')!r}; this version reads {FORMAT}")
            settings, content = ModelSettings(**body["settings"]), ContentArrays.open(directory)
            model = _model(settings, content, load_file(directory / "model.safetensors"))
            cached = load_file(directory / "catalogue.safetensors")
            video_ids = json.loads((directory / "items.json").read_text())
            described, salience = cached["described"], cached["salience"]
        except BundleError:
            raise
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError, TypeError, RuntimeError) as error:
            raise BundleError(f"{directory} is no whole model bundle: {error}") from error
        if not isinstance(video_ids, list) or not all(isinstance(video, str) for video in video_ids):
            raise BundleError(f"{directory}: items.json must be a list of video ids")
        shapes = (tuple(described.shape), tuple(salience.shape))
        if shapes != ((settings.items + 1, settings.width), (settings.items + 1, settings.frames)):
            raise BundleError(f"{directory}: catalogue of shapes {shapes} for {settings.items} videos")
        if not len(video_ids) == content.items == model.settings.items:
            raise BundleError(
                f"{directory}: {len(video_ids)} ids, {content.items} contents, {model.settings.items} in model"
            )
        return cls(model, content, video_ids, described, salience)

    @torch.no_grad()
    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude_seen: bool = True,
        *,
        exclude: Sequence[int] = (),
        only: Sequence[int] | None = None,
        quick: bool = False,
    ) -> Recommendations:
        """Top k for each history of item indices, oldest first. A viewer without history gets the most popular videos.

        exclude: items nobody is recommended; only: the candidates (None: every video). Ties go to the lower index. Cost:
        B x N scores and one TCD run for each of the newest max_history items; with `quick` no TCD and no NPD: the backbone
        over the catalogue's vectors, some twenty times cheaper."""
        k = min(k, len(self.video_ids))
        history = _left_pad([list(h)[-self.model.settings.max_history :] for h in histories])
        state, unusual = self._state(history, quick)
        scores = self.model.scores(state, self.catalogue)
        empty = torch.tensor([len(h) == 0 for h in histories])
        scores = torch.where(empty[:, None], self.popularity, scores)
        scores[:, [0, *exclude]] = -torch.inf
        if only is not None:
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            allowed[list(only)] = True
            scores[:, ~allowed] = -torch.inf
        if exclude_seen:
            scores.scatter_(1, _left_pad([list(h) for h in histories]), -torch.inf)
        values, top = top_k(scores, k)
        top = torch.where(values.isneginf(), 0, top)
        return Recommendations(top.numpy(), values.float().numpy(), self.moments[top].numpy(), unusual.numpy())

    def _state(self, history: Tensor, quick: bool) -> tuple[Tensor, Tensor]:
        if quick:
            return plain_state(self.model, self.catalogue, history), torch.zeros(len(history))
        found = preference(self.model, self.content.gather, history)
        return found.state, found.unusual

    @torch.no_grad()
    def explain(self, history: Sequence[int]) -> npt.NDArray[np.float32]:
        """Salience of each frame for this viewer, [min(L, max_history), F], rows in the order of the history."""
        window = list(history)[-self.model.settings.max_history :]
        weights: npt.NDArray[np.float32] = (
            preference(self.model, self.content.gather, _left_pad([window])).salience[0].numpy()
        )
        return weights


def _model(settings: ModelSettings, content: ContentArrays, weights: dict[str, Tensor]) -> MealRec:
    """The model with its weights. What the settings ask for is compared with what the files hold before anything of that
    size is reserved. Raises ValueError."""
    asked = {name: getattr(settings, name) for name in content.dims}
    if asked != content.dims:
        raise ValueError(f"settings say {asked}, the content arrays {content.dims}")
    with torch.device("meta"):  # shapes without memory
        expected = {name: tuple(tensor.shape) for name, tensor in MealRec(settings).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(f"weights do not fit the settings: {', '.join(odd[:5])}")
    model = MealRec(settings)
    model.load_state_dict(weights)
    return model


def _moments(salience: Tensor, times: Tensor) -> Tensor:
    """Time of each video's most salient frame [N + 1], -1 where it has none."""
    best = salience.argmax(1, keepdim=True)
    return times.gather(1, best)[:, 0]


def _left_pad(rows: Sequence[Sequence[int]]) -> Tensor:
    width = max([1, *(len(r) for r in rows)])
    return torch.tensor([[0] * (width - len(r)) + list(r) for r in rows], dtype=torch.int64).reshape(len(rows), width)
