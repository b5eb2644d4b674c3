"""MealRec: content diffusion inside, preference denoising outside, a sequential backbone between them.

content --tokeniser--> x --guidance--> g --TCD(condition)--> xhat --salience--> v --fusion--> z
z of the history --backbone--> H --NPD--> hhat ;  score = <hhat, zbar> / temperature over the catalogue's item-mode zbar
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mealrec.model.backbone import SASRec, previous_state
from mealrec.model.content import Content
from mealrec.model.fusion import Fusion
from mealrec.model.guidance import TemporalGuidance
from mealrec.model.npd import PreferenceDenoiser, running_mean
from mealrec.model.salience import SaliencePooling
from mealrec.model.settings import ModelSettings
from mealrec.model.tcd import ContentDiffusion, Scene
from mealrec.model.tokeniser import FrameTokeniser


class Encoded(NamedTuple):
    """n videos encoded under a condition: pooled tokens v, described content c and vector z [n, D], salience a [n, F]."""

    pooled: Tensor
    described: Tensor
    z: Tensor
    salience: Tensor


class History(NamedTuple):
    """A batch of viewers' histories in vectors: z, described [B, L, D], mask [B, L]."""

    z: Tensor
    described: Tensor
    mask: Tensor


class MealRec(nn.Module):
    """The whole model. Parameters grow with N x D (IDs); everything else is independent of the catalogue."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        width = settings.width
        self.settings = settings
        self.ids = nn.Embedding(settings.items + 1, width, padding_idx=0)
        nn.init.normal_(self.ids.weight, std=0.02)
        with torch.no_grad():
            self.ids.weight[0].zero_()
        self.null_id = nn.Parameter(torch.randn(width) * 0.02)
        self.null_user = nn.Parameter(torch.randn(width) * 0.02)
        self.tokeniser = FrameTokeniser(settings)
        self.guidance = TemporalGuidance(width)
        self.condition = nn.Linear(2 * width, width)
        self.tcd = ContentDiffusion(settings)
        self.salience = SaliencePooling(width)
        self.fusion = Fusion(settings)
        self.backbone = SASRec(settings)
        self.npd = PreferenceDenoiser(width, heads=settings.heads)

    # -- videos ------------------------------------------------------------------------------------------------------
    def scene(self, content: Content) -> Scene:
        """Tokens and temporal guidance of n videos; independent of the viewer."""
        tokens = self.tokeniser(content)
        g, g_mean = self.guidance(tokens, content)
        return Scene(tokens.x, g, g_mean, tokens.redundancy, tokens.mask, content.position)

    def id_vectors(self, index: Tensor, log_popularity: Tensor) -> Tensor:
        """E_i, or the learned null for a video without a trained ID (never seen in training)."""
        vectors: Tensor = self.ids(index)
        return torch.where((log_popularity > 0)[..., None], vectors, self.null_id)

    def conditions(self, users: Tensor | None, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """c = W_c [u ; e_i] (2.3). users None is mode `item`. With a generator (training) each part is replaced by its null
        with probability condition_dropout, which trains the modes `item` and `null`."""
        n = ids.shape[0]
        users = self.null_user.expand(n, -1) if users is None else users
        if generator is not None:
            drop = torch.rand(n, 2, generator=generator, device=ids.device) < self.settings.condition_dropout
            users = torch.where(drop[:, :1], self.null_user, users)
            ids = torch.where(drop[:, 1:], self.null_id, ids)
        out: Tensor = self.condition(torch.cat([users, ids], -1))
        return out

    def encode(
        self, scene: Scene, content: Content, ids: Tensor, condition: Tensor, log_popularity: Tensor | None = None
    ) -> Encoded:
        """TCD, salience and fusion for n (video, condition) pairs. Without TCD: the mean of the clean tokens."""
        if self.settings.tcd:
            refined = self.tcd.refine(scene, condition)
            pooled, weight = self.salience(refined, scene, condition)
        else:
            weight = scene.mask / scene.mask.sum(1, keepdim=True).clamp(min=1)
            pooled = (weight[..., None] * scene.x).sum(1)
        described = self.fusion.describe(pooled, content.text, content.has_frames, content.has_text)
        popularity = content.log_popularity if log_popularity is None else log_popularity
        return Encoded(pooled, described, self.fusion(ids, described, content.available, popularity), weight)

    def catalogue(self, described: Tensor, available: Tensor, log_popularity: Tensor) -> Tensor:
        """Item-mode vectors zbar [N + 1, D] of the whole catalogue from described content [N + 1, D]; row 0 is padding."""
        index = torch.arange(described.shape[0], device=described.device)
        out: Tensor = self.fusion(self.id_vectors(index, log_popularity), described, available, log_popularity)
        return out

    # -- viewers -----------------------------------------------------------------------------------------------------
    def id_states(self, history: Tensor) -> Tensor:
        """States of an ID-only pass [B, L, D]: the S0 model, and where the collaborative condition u comes from."""
        states: Tensor = self.backbone(self.ids(history), history > 0)
        return states

    def users_before(self, history: Tensor) -> Tensor:
        """u for every position [B, L, D]: stop-gradient ID-only state before it (2.3)."""
        with torch.no_grad():
            states = self.id_states(history)
        return previous_state(states, history > 0, self.null_user)

    def states(self, history: History) -> Tensor:
        out: Tensor = self.backbone(history.z, history.mask)
        return out

    def preferences(self, history: History) -> Tensor:
        """Denoised states hhat at every position [B, L, D]; the plain states when NPD is off."""
        return self.denoise(self.states(history), history)

    def denoise(self, states: Tensor, history: History) -> Tensor:
        if not self.settings.npd:
            return states
        out: Tensor = self.npd(states, history.mask, running_mean(history.described, history.mask))
        return out

    def scores(self, preference: Tensor, catalogue: Tensor) -> Tensor:
        """<hhat, zbar> / temperature: preference [m, D], catalogue [N + 1, D] -> [m, N + 1]."""
        return preference @ catalogue.T / self.settings.temperature
