"""Top-K recommendations from a model bundle; exact, deterministic, the same code in batch, registry and endpoint."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mealrec.config import IndexConfig
from mealrec.data.arrays import ContentArrays
from mealrec.model.incremental import Encoding, encode, prefer
from mealrec.model.inference import plain_state, preference
from mealrec.model.mealrec import MealRec
from mealrec.model.personal import Candidates, personal_vectors
from mealrec.model.settings import ModelSettings
from mealrec.model.top_k import top_k
from mealrec.model.window import Seen, Tables, Whole, encoding_of, rows_of
from mealrec.serving.cached import Cached
from mealrec.serving.encodings import Encodings, Held
from mealrec.serving.index import Exact, Index, indexed

FORMAT = 4
VIEWERS_REMEMBERED = 10_000
PASSING = {
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EAGAIN,
    errno.EINTR,
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
}


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


class Preferred(NamedTuple):
    """States [B, D], how far NPD moved them [B], and the collaborative signal [D] that candidates of a single viewer are
    conditioned on, None where it was not computed."""

    state: Tensor
    unusual: Tensor
    user: Tensor | None = None


class Recommender:
    """A loaded model. Memory: the weights, IDs among them, and N x (3 D + 2 F); frames and tokens stay mapped on disk.

    lookup: where videos are looked up, exact unless it is exchanged. viewers: what was encoded of viewers before. whole: the
    model's pass over one viewer's window as native code, once there is one (compiled.py)."""

    def __init__(self, model: MealRec, content: ContentArrays, video_ids: list[str], cached: Cached) -> None:
        self.model, self.content, self.video_ids = model.eval(), content, video_ids
        self.index = {video: i for i, video in enumerate(video_ids, start=1)}
        self.cached, self.salience = cached, cached.salience
        self.log_popularity, self.available = content.log_popularity(), content.available()
        with torch.no_grad():
            self.catalogue = model.catalogue(cached.described, self.available, self.log_popularity)
        self.popularity, self.recent = content.train_count().float(), content.recent_popularity()
        self.moments = _moments(self.salience, content.times())
        self.lookup: Index = Exact(self.catalogue)
        self.viewers = Encodings(VIEWERS_REMEMBERED)
        self.whole: Whole | None = None

    @classmethod
    def load(cls, directory: Path) -> Recommender:
        """Raises BundleError naming what is wrong with the bundle, and what else went wrong (want of memory, of file handles)
        as it is: the same bundle may load later."""
        try:
            body = json.loads((directory / "bundle.json").read_text())
            if body.get("format") != FORMAT:
                raise BundleError(f"{directory}: bundle format {body.get('format')!r}; this version reads {FORMAT}")
            settings, content = ModelSettings(**body["settings"]), ContentArrays.open(directory)
            model = _model(settings, content, load_file(directory / "model.safetensors"))
            cached = Cached.open(directory, settings)
            video_ids = json.loads((directory / "items.json").read_text())
        except BundleError:
            raise
        except (OSError, ValueError, KeyError, AttributeError, SafetensorError, TypeError, RuntimeError) as error:
            if _is_passing(error):
                raise
            raise BundleError(f"{directory} is no whole model bundle: {error}") from error
        if not isinstance(video_ids, list) or not all(isinstance(video, str) for video in video_ids):
            raise BundleError(f"{directory}: items.json must be a list of video ids")
        if not len(video_ids) == content.items == model.settings.items:
            raise BundleError(
                f"{directory}: {len(video_ids)} ids, {content.items} contents, {model.settings.items} in model"
            )
        return cls(model, content, video_ids, cached)

    @torch.inference_mode()
    def recommend(
        self,
        histories: Sequence[Sequence[int]],
        k: int,
        exclude_seen: bool = True,
        *,
        exclude: Sequence[int] = (),
        only: Sequence[int] | None = None,
        quick: bool = False,
        npd: bool = True,
        rerank: int = 0,
        viewer: str | None = None,
    ) -> Recommendations:
        """Top k for each history of item indices, oldest first. A viewer without history gets what was watched
        most of late.

        exclude: items nobody is recommended; only: the candidates (None: every video). Ties go to the lower index. Cost:
        B x N scores and one TCD run for each of the newest max_history items; with `quick` no TCD and no NPD: the backbone
        over the catalogue's vectors, some twenty times cheaper. npd False leaves NPD out.

        For a single history: viewer names whose it is, so that what was encoded of them before is kept (incremental.py);
        rerank: that many of the best are scored again as this viewer sees them (personal.py)."""
        k = min(k, len(self.video_ids))
        known = [n for n, row in enumerate(histories) if len(row)]
        values, top = torch.full((len(histories), k), -torch.inf), torch.zeros(len(histories), k, dtype=torch.int64)
        unusual = torch.zeros(len(histories))
        if known:
            found = self._prefer([list(histories[n]) for n in known], quick=quick, npd=npd, viewer=viewer)
            hidden = _left_pad([[*(histories[n] if exclude_seen else ()), *exclude] for n in known])
            again = rerank if found.user is not None and self.can_rerank else 0
            best = self._best(found.state, max(k, again), hidden, only)
            if again:
                best = self._reranked(found, best)
            n = min(k, best[0].shape[1])
            values[known, :n], top[known, :n], unusual[known] = best[0][:, :n], best[1][:, :n], found.unusual
        if len(known) < len(histories):
            popular = self._popular(k, exclude, only)
            unknown = [n for n, row in enumerate(histories) if not len(row)]
            n = popular[0].shape[1]
            values[unknown, :n], top[unknown, :n] = popular
        top = torch.where(values.isneginf(), 0, top)
        return Recommendations(top.numpy(), values.numpy(), self.moments[top].numpy(), unusual.numpy())

    def use(self, config: IndexConfig) -> None:
        """Look videos up as the settings say. An approximate index is measured with viewers whose histories are drawn by
        popularity."""
        if config.kind == "exact":
            self.lookup = Exact(self.catalogue)
            return
        counts, length = self.popularity + 1, self.model.settings.max_history
        counts[0] = 0
        drawn = torch.multinomial(
            counts, config.states * length, replacement=True, generator=torch.Generator().manual_seed(0)
        )
        states = plain_state(self.model, self.catalogue, drawn.view(config.states, length))
        self.lookup = indexed(self.catalogue, states, config)

    def tables(self) -> Tables:
        """What `whole` reads; the videos' content stays mapped on disk."""
        return Tables(
            plain=self.cached.plain,
            ids=self.model.ids.weight.detach(),
            **{name: self.content.mapped(name) for name in ("visual", "audio", "text", "position", "frame_mask")},
            available=self.available,
            log_popularity=self.log_popularity,
        )

    @property
    def can_rerank(self) -> bool:
        """Whether a video's vector depends on who looks at it."""
        return self.model.settings.content and self.model.settings.tcd != "mean"

    def _prefer(self, rows: list[list[int]], *, quick: bool, npd: bool, viewer: str | None) -> Preferred:
        windows = [row[-self.model.settings.max_history :] for row in rows]
        if quick:
            return Preferred(plain_state(self.model, self.catalogue, _left_pad(windows)), torch.zeros(len(rows)))
        if len(rows) == 1:
            return self._prefer_one(windows[0], npd, viewer)
        found = preference(self.model, self.content.gather, _left_pad(windows))
        return Preferred(found.state, found.unusual)

    def _prefer_one(self, window: list[int], npd: bool, viewer: str | None) -> Preferred:
        held = None if viewer is None else self.viewers.get(viewer)
        if held is None or held.encoding.items != tuple(window):
            held = self._encoded(window, None if held is None else held.encoding)
        if npd and held.preferred is None:
            held = held._replace(preferred=prefer(self.model, held.encoding))
        if viewer is not None:
            self.viewers.put(viewer, held)
        preferred = held.preferred if npd else None
        return Preferred(*(preferred or prefer(self.model, held.encoding, npd=False)), held.encoding.user)

    def _encoded(self, window: list[int], before: Encoding | None) -> Held:
        if self.whole is None:
            return Held(encode(self.model, self.content.gather, self.cached.plain, window, before), None)
        seen = Seen(*self.whole(rows_of(window)))
        return Held(encoding_of(window, seen), (seen.state, seen.unusual))

    def _best(self, states: Tensor, k: int, hidden: Tensor, only: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """(scores, item indices) [B, up to k]."""
        states = states / self.model.settings.temperature
        if only is None:
            return self.lookup.search(states, k, hidden)
        allowed = torch.tensor(sorted(set(only)), dtype=torch.int64)
        scores = states @ self.catalogue[allowed].T
        scores.masked_fill_((allowed[None, :, None] == hidden[:, None, :]).any(2), -torch.inf)
        values, at = top_k(scores, k)
        return values, allowed[at]

    def _popular(self, k: int, exclude: Sequence[int], only: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        scores = self.recent[None].clone()
        scores[:, [0, *exclude]] = -torch.inf
        if only is not None:
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            allowed[list(only)] = True
            scores[:, ~allowed] = -torch.inf
        return top_k(scores, k)

    def _reranked(self, found: Preferred, best: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The candidates of one viewer in the order of their scores as that viewer sees them, equal ones by lower index."""
        assert found.user is not None
        items = best[1][0][best[0][0] > -torch.inf].sort().values
        arrays = self.content.arrays
        candidates = Candidates(
            items,
            refined=self.cached.take("refined", items),
            key=self.cached.take("key", items),
            redundancy=self.cached.take("redundancy", items),
            mask=torch.from_numpy(arrays["frame_mask"][items.numpy()]),
            text=torch.from_numpy(arrays["text"][items.numpy()]),
            available=self.available[items],
            log_popularity=self.log_popularity[items],
        )
        scores = self.model.scores(found.state, personal_vectors(self.model, found.user, candidates))
        order = torch.sort(scores, dim=1, descending=True, stable=True)
        return order.values, items[order.indices]

    @torch.no_grad()
    def explain(self, history: Sequence[int]) -> npt.NDArray[np.float32]:
        """Salience of each frame for this viewer, [min(L, max_history), F], rows in the order of the history."""
        window = list(history)[-self.model.settings.max_history :]
        weights: npt.NDArray[np.float32] = (
            preference(self.model, self.content.gather, _left_pad([window])).salience[0].numpy()
        )
        return weights


def _is_passing(error: Exception) -> bool:
    """Whether the machine, and not the bundle, is short of something."""
    if isinstance(error, OSError):
        return error.errno in PASSING
    return "can't allocate memory" in str(error)  # how torch says it on a CPU, in a RuntimeError


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
