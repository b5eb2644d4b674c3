"""MealRec: content diffusion inside, preference denoising outside, a sequential backbone between them.

content --tokeniser--> x --guidance--> g --TCD(condition)--> xhat --salience--> v --fusion--> z
z of the history --NPD--> zhat --backbone--> hhat ;  score = <hhat, zbar> / temperature over the catalogue's item-mode zbar

The `plain` vector of a video (mean of its tokens, no diffusion) is what the first training stage learns with, what the
collaborative condition is computed from, and where the refined vector starts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mealrec.model.backbone import backbone, previous_state
from mealrec.model.content import TEXT, Content
from mealrec.model.fusion import Fusion
from mealrec.model.guidance import TemporalGuidance
from mealrec.model.npd import PreferenceDenoiser, Recovered, StateDenoiser, running_mean
from mealrec.model.salience import SaliencePooling
from mealrec.model.settings import ModelSettings
from mealrec.model.summary import Summary, summarise
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
        self.backwards = nn.Parameter(torch.randn(width) * 0.02)  # says that a window is read from its end
        self.null_user = nn.Parameter(torch.randn(width) * 0.02)
        self.tokeniser = FrameTokeniser(settings)
        self.guidance = TemporalGuidance(width, enabled=settings.guidance)
        self.condition = nn.Linear(2 * width, width)
        self.tcd = ContentDiffusion(settings)
        self.salience = SaliencePooling(width)
        self.fusion = Fusion(settings)
        self.backbone = backbone(
            settings.backbone,
            width=width,
            max_history=settings.max_history,
            layers=settings.layers,
            heads=settings.heads,
            dropout=settings.dropout,
        )
        self.npd = (
            StateDenoiser(width, heads=settings.heads)
            if settings.npd == "state"
            else PreferenceDenoiser(width, told=settings.npd == "told")
        )

    # -- videos ------------------------------------------------------------------------------------------------------
    def scene(self, content: Content) -> Scene:
        """Tokens and temporal guidance of n videos; independent of the viewer."""
        tokens = self.tokeniser(content)
        g, g_mean = self.guidance(tokens, content)
        return Scene(tokens.x, g, g_mean, tokens.redundancy, tokens.mask, content.position)

    def id_vectors(self, index: Tensor, log_popularity: Tensor) -> Tensor:
        """E_i, or the learned null for a video without a trained ID (never seen in training)."""
        return self.trained_or_null(self.ids(index), log_popularity)

    def trained_or_null(self, ids: Tensor, log_popularity: Tensor) -> Tensor:
        """The same from rows of the table [..., D]."""
        return torch.where((log_popularity > 0)[..., None], ids, self.null_id)

    def conditions(self, users: Tensor | None, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """c = W_c [u ; e_i] (2.3). users None is mode `item`. With a generator (training) each part is replaced by its null
        with probability condition_dropout, which trains the modes `item` and `null`. Without the collaborative signal (A3)
        every condition is the null one."""
        n = ids.shape[0]
        users = self.null_user.expand(n, -1) if users is None else users
        if not self.settings.collaborative:
            users, ids = self.null_user.expand(n, -1), self.null_id.expand(n, -1)
        elif generator is not None:
            drop = torch.rand(n, 2, generator=generator, device=ids.device) < self.settings.condition_dropout
            users = torch.where(drop[:, :1], self.null_user, users)
            ids = torch.where(drop[:, 1:], self.null_id, ids)
        out: Tensor = self.condition(torch.cat([users, ids], -1))
        return out

    def refine(self, scene: Scene, condition: Tensor) -> Tensor:
        """Refined tokens xhat [n, F, D]; the clean ones where TCD is a plain mean."""
        return scene.x if self.settings.tcd == "mean" else self.tcd.refine(scene, condition)

    def pool(self, refined: Tensor, scene: Scene, condition: Tensor, content: Content) -> tuple[Tensor, Tensor]:
        """v [n, D] and the weights of the frames [n, F]."""
        if self.settings.tcd == "mean":
            weight = scene.mask / scene.mask.sum(1, keepdim=True).clamp(min=1)
            return self.tokeniser.mean_token(summarise(content), content.available), weight
        pooled: tuple[Tensor, Tensor] = self.salience(refined, scene, condition)
        return pooled

    def encode(
        self,
        scene: Scene,
        content: Content,
        ids: Tensor,
        condition: Tensor,
        *,
        refined: Tensor | None = None,
        log_popularity: Tensor | None = None,
    ) -> Encoded:
        """TCD, salience and fusion for n (video, condition) pairs; refined [n, F, D] where it was computed before."""
        if refined is None:
            refined = self.refine(scene, condition)
        pooled, weight = self.pool(refined, scene, condition, content)
        described = self.fusion.describe(pooled, content.text, content.has_frames, content.has_text)
        popularity = content.log_popularity if log_popularity is None else log_popularity
        z = self.fusion(ids, described, content.available, popularity) if self.settings.content else ids
        return Encoded(pooled, described, z, weight)

    def encode_history(
        self,
        content: Content,
        scene: Scene,
        rows: Tensor,
        users: Tensor,
        ids: Tensor,
        *,
        lost: Tensor | None = None,
        held: Tensor | None = None,
        refined: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Encoded, Tensor]:
        """Videos `rows` [m] of content and scene (n distinct videos) as m (viewer, position) pairs see them, and the
        conditions [m, D]. lost [m]: pairs whose ID is replaced by the null one; held: the distinct of `rows`, where some of the
        n videos are in no pair. With personal "pooling" the denoiser runs once for each video, in mode `item`, or not at all
        where `refined` [n, F, D] is given; otherwise m times."""
        condition = self.conditions(users, ids, generator)
        if self.settings.personal == "denoiser":
            refined = None
        elif refined is not None:
            refined = refined[rows]
        else:
            some, at = (scene, rows) if held is None else (scene.rows(held), torch.searchsorted(held, rows))
            own = torch.zeros(some.x.shape[0], ids.shape[-1], dtype=ids.dtype, device=ids.device)
            own = own.index_copy(0, at, ids.detach())  # any of a video's pairs: their IDs are the same
            refined = self.refine(some, self.conditions(None, own, generator)).index_select(0, at)
        popularity = content.log_popularity[rows]
        if lost is not None:
            ids = torch.where(lost[:, None], self.null_id, ids)
            popularity = torch.where(lost, 0.0, popularity)
        own_content = content[rows] if self.settings.tcd == "mean" else content.facts(rows)
        seen = self.encode(scene.rows(rows), own_content, ids, condition, refined=refined, log_popularity=popularity)
        return seen, condition

    def described_plain(self, summary: Summary, text: Tensor, has_frames: Tensor, available: Tensor) -> Tensor:
        """Described content [n, D] of the tokens' mean; zeros for the ID-only model."""
        if not self.settings.content:
            return self.null_id.new_zeros(available.shape[0], self.settings.width)
        pooled = self.tokeniser.mean_token(summary, available)
        return self.fusion.describe(pooled, text, has_frames, available[:, TEXT])

    def plain_history(self, content: Content, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Described content and plain vectors [m, D] of the pairs `rows` [m] of n distinct videos."""
        described = self.described_plain(summarise(content), content.text, content.has_frames, content.available)[rows]
        if not self.settings.content:
            return described, ids
        return described, self.fusion(ids, described, content.available[rows], content.log_popularity[rows])

    def catalogue(self, described: Tensor, available: Tensor, log_popularity: Tensor) -> Tensor:
        """Item-mode vectors zbar [N + 1, D] of the whole catalogue from described content [N + 1, D]; row 0 is padding."""
        index = torch.arange(described.shape[0], device=described.device)
        ids = self.id_vectors(index, log_popularity)
        return self.fusion(ids, described, available, log_popularity) if self.settings.content else ids

    # -- viewers -----------------------------------------------------------------------------------------------------
    def users_before(self, z: Tensor, mask: Tensor) -> Tensor:
        """u for every position [B, L, D] of a history in plain vectors z: stop-gradient state before it (2.3, no leak)."""
        return previous_state(self.users_after(z, mask), mask, self.null_user)

    @torch.no_grad()
    def users_after(self, z: Tensor, mask: Tensor) -> Tensor:
        """u after every position [B, L, D]. A bidirectional backbone would look ahead, so its condition is the mean of what was
        watched so far."""
        z = z.detach()
        out: Tensor = self.backbone(z, mask) if self.backbone.causal else running_mean(z, mask)
        return out

    def states(self, history: History) -> Tensor:
        out: Tensor = self.backbone(history.z, history.mask)
        return out

    def newest_states(self, history: History) -> Tensor:
        """The last of `states` [B, D], for less."""
        out: Tensor = self.backbone.newest(history.z, history.mask)
        return out

    def preferences(self, history: History, told: Tensor | None = None) -> Tensor:
        """Denoised states hhat [B, L, D], of which the newest is the viewer's; the plain states without a denoiser."""
        if self.settings.npd in ("blind", "told"):
            return self.states(history._replace(z=self.recover(history, told).z))
        return (
            self.denoise_states(self.states(history), history) if self.settings.npd == "state" else self.states(history)
        )

    def recover(self, history: History, told: Tensor | None = None) -> Recovered:
        """NPD before the backbone: the history's item vectors with what does not belong to it taken out."""
        assert isinstance(self.npd, PreferenceDenoiser)
        before, after = self.contexts(history.z, history.mask)
        out: Recovered = self.npd(history.z, before, after, history.mask, told)
        return out

    def contexts(self, z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What each position of a history is expected to hold [B, L, D]: from the items before it, and from those after it,
        read backwards as in the backwards windows of training. Constants: nothing is trained through them. Both directions are
        one pass of the backbone."""
        turn = mask.shape[1] - 1 - torch.argsort(mask.flip(1).long(), dim=1, stable=True)  # padding stays in front
        turned, there = z.gather(1, turn[..., None].expand_as(z)), mask.gather(1, turn)
        both = torch.cat([z, (turned + self.backwards) * there[..., None]])
        before, after = self.users_before(both, torch.cat([mask, there])).chunk(2)
        after = after.gather(1, torch.argsort(turn, 1)[..., None].expand_as(z))
        return before.detach(), after.detach()  # the filler where nothing came before is a parameter

    def denoise_states(self, states: Tensor, history: History) -> Tensor:
        """NPD behind the backbone, as the specification has it (npd `state`)."""
        out: Tensor = self.npd(states, history.mask, running_mean(history.described, history.mask))
        return out

    def scores(self, preference: Tensor, catalogue: Tensor, out: Tensor | None = None) -> Tensor:
        """<hhat, zbar> / temperature: preference [m, D], catalogue [N + 1, D] -> [m, N + 1], in `out` where it is given."""
        return torch.mm(preference / self.settings.temperature, catalogue.T, out=out)  # not the scores: they are many
