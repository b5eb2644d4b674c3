"""The staged training loop: S0 ID-only, S1 content, S2 joint (model.md section 3).

Runs in one process or as one of several workers; needs torch and numpy alone. Every random draw is a function of
(seed, stage, epoch, step, rank), so a run resumed from a checkpoint equals an uninterrupted one without stored streams.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mealrec.data.batches import Batch, Windows, steps_per_epoch, training_batches
from mealrec.data.packed import Packed
from mealrec.evaluation.metrics import gains, hits
from mealrec.evaluation.ranking import id_scorer, model_scorer, rank_targets
from mealrec.model.inference import describe_range
from mealrec.model.mealrec import MealRec
from mealrec.training.optimiser import optimiser
from mealrec.training.peers import Peers
from mealrec.training.progress import STAGES, Progress
from mealrec.training.step import (
    Catalogue,
    Inputs,
    Losses,
    LossWeights,
    catalogue_vectors,
    content_loss,
    distinct,
    joint_loss,
    warmup_loss,
)

if TYPE_CHECKING:
    from mealrec.config import TrainConfig

GATE_METRIC_K = 10


@dataclass
class State:
    """All that a checkpoint holds: weights, the EMA teacher, the best weights of the stage, optimiser, progress."""

    model: MealRec
    teacher: MealRec
    best: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    progress: Progress = field(default_factory=Progress)

    @classmethod
    def fresh(cls, model: MealRec, config: TrainConfig) -> State:
        teacher = copy.deepcopy(model).requires_grad_(False)
        return cls(model, teacher, _copy_of(model), optimiser(model, "warmup", config))


class Trainer:
    """Runs epochs of `state` over `data`. `say` gets a line for a person every few seconds."""

    def __init__(
        self,
        data: Packed,
        config: TrainConfig,
        *,
        seed: int,
        peers: Peers | None = None,
        say: Callable[[str], None] = lambda line: None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.config, self.seed = data, config, seed
        self.peers, self.say, self.device = peers or Peers(), say, torch.device(device)
        self.weights = LossWeights(plain=config.id_weight, tcd=config.tcd_weight, npd=config.npd_weight)
        self.catalogue: Catalogue | None = None

    def run(self, state: State, on_epoch: Callable[[State], None] = lambda state: None) -> None:
        """Train until every stage is done; `on_epoch` is called after each epoch, with a state that may be saved."""
        limits = dict(
            zip(STAGES, (self.config.warmup_epochs, self.config.content_epochs, self.config.joint_epochs), strict=True)
        )
        windows = Windows.of(self.data, state.model.settings.max_history)
        if len(windows.spans) == 0:
            raise ValueError("no training window: every viewer has fewer than two training interactions")
        while not state.progress.finished:
            if state.progress.epoch >= limits[state.progress.stage] or state.progress.waited >= self.config.patience:
                self._leave_stage(state)
                continue
            self._epoch(state, windows)
            on_epoch(state)

    def _leave_stage(self, state: State) -> None:
        if state.progress.epoch:
            state.model.load_state_dict(state.best)
        state.progress.enter_next_stage()
        if not state.progress.finished:
            state.optimiser = optimiser(state.model, state.progress.stage, self.config)
            state.teacher.load_state_dict(state.model.state_dict())
            state.best = _copy_of(state.model)

    def _epoch(self, state: State, windows: Windows) -> None:
        progress, began = state.progress, time.monotonic()
        self.catalogue = None if progress.stage == "warmup" else self._refresh(state.model)
        parts = self._train(state, windows)
        metrics = self._validate(state.model, ids_only=progress.stage == "warmup")
        progress.epoch += 1
        progress.total_epochs += 1
        if metrics["ndcg@10"] > progress.best:
            progress.best, progress.waited, state.best = metrics["ndcg@10"], 0, _copy_of(state.model)
        else:
            progress.waited += 1
        entry = {"epoch": progress.total_epochs, "stage": progress.stage, **parts, **metrics}
        progress.curves.append(entry)
        figures = " ".join(f"{k} {v:.4f}" for k, v in entry.items() if isinstance(v, float))
        self.say(f"{progress.stage} epoch {progress.epoch}: {figures} ({time.monotonic() - began:.1f} s)")

    def _train(self, state: State, windows: Windows) -> dict[str, float]:
        state.model.train()
        progress, steps = state.progress, steps_per_epoch(windows, self.config.batch_size)
        sums: dict[str, float] = {}
        last_said = time.monotonic()
        batches = training_batches(
            self.data,
            windows,
            batch_size=self.config.batch_size,
            seed=self.seed,
            epoch=progress.total_epochs,
            rank=self.peers.rank,
            world=self.peers.world,
        )
        for step, batch in enumerate(batches):
            losses = self._step(state, batch, step)
            for name, value in losses.parts.items():
                sums[name] = sums.get(name, 0.0) + value
            if time.monotonic() - last_said > 5:
                last_said = time.monotonic()
                self.say(f"{progress.stage} epoch {progress.epoch + 1}: step {step + 1}/{steps}")
        names = sorted(sums)
        total = self.peers.total(torch.tensor([sums[n] for n in names], dtype=torch.float64))
        return {f"loss_{n}": float(v) / steps for n, v in zip(names, total, strict=True)}

    def _step(self, state: State, batch: Batch, step: int) -> Losses:
        where = [self.seed, STAGES.index(state.progress.stage), state.progress.epoch, step, self.peers.rank]
        torch.manual_seed(_mix([*where, 0]))  # dropout
        rng = torch.Generator(self.device).manual_seed(_mix([*where, 1]))  # noise, corruption, condition dropout
        state.optimiser.zero_grad(set_to_none=True)
        losses = self._losses(state, batch, rng)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.peers.add_gradients(state.model.parameters())
        nn.utils.clip_grad_norm_([p for p in state.model.parameters() if p.requires_grad], self.config.clip_norm)
        state.optimiser.step()
        if state.progress.stage == "joint":
            _follow(state.teacher, state.model, self.config.ema_decay)
        return losses

    def _losses(self, state: State, batch: Batch, rng: torch.Generator) -> Losses:
        history, target = batch.history.to(self.device), batch.target.to(self.device)
        positions = float(batch.positions)
        if len(history) == 0:  # this worker has no row of the last batch; its gradients are zero
            zero = sum((p.sum() * 0 for p in state.model.parameters() if p.requires_grad), torch.zeros(()))
            return Losses(zero, {})
        if state.progress.stage == "warmup":
            return warmup_loss(state.model, history, target, positions)
        assert self.catalogue is not None
        videos = distinct(history, target)
        inputs = Inputs(history, target, videos, self.data.content.gather(videos))
        if state.progress.stage == "content":
            return content_loss(state.model, inputs, self.catalogue, self.weights, positions, rng)
        return joint_loss(state.model, state.teacher, inputs, self.catalogue, self.weights, positions, rng)

    def _refresh(self, model: MealRec) -> Catalogue:
        """Item-mode tokens of the whole catalogue, each worker computing its part."""
        model.eval()
        n, peers = self.data.items, self.peers
        start, end = 1 + n * peers.rank // peers.world, 1 + n * (peers.rank + 1) // peers.world
        pooled = torch.zeros(n + 1, model.settings.width, device=self.device)
        pooled[start:end] = describe_range(model, self.data.content.gather, start, end).pooled
        content = self.data.content
        return Catalogue(
            peers.total(pooled),
            content.text().to(self.device),
            content.has_frames().to(self.device),
            content.available().to(self.device),
            content.log_popularity().to(self.device),
            content.train_count().float().to(self.device),
        )

    def _validate(self, model: MealRec, *, ids_only: bool) -> dict[str, float]:
        model.eval()
        if ids_only:
            scorer = id_scorer(model)
        else:
            scorer = model_scorer(model, self.data.content.gather, catalogue_vectors(model, self._refresh(model)))
        ranked = rank_targets(
            scorer,
            self.data,
            "valid",
            max_history=model.settings.max_history,
            rank=self.peers.rank,
            world=self.peers.world,
            device=self.device,
        )
        ranks = torch.from_numpy(ranked.rank)
        sums = torch.stack(
            [
                torch.tensor(float(len(ranks)), dtype=torch.float64),
                hits(ranks, GATE_METRIC_K).sum(),
                gains(ranks, GATE_METRIC_K).sum(),
            ]
        )
        viewers, hit, gain = self.peers.total(sums).tolist()
        return {"hr@10": hit / max(viewers, 1), "ndcg@10": gain / max(viewers, 1)}


def _mix(parts: Iterable[int]) -> int:
    """A seed from several integers: distinct tuples give unrelated streams."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = (value ^ (part + 0x632BE59BD9B4E019)) * 0xBF58476D1CE4E5B9 % 2**64
        value ^= value >> 29
    return value % 2**63


def _copy_of(model: MealRec) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


@torch.no_grad()
def _follow(teacher: MealRec, model: MealRec, decay: float) -> None:
    for slow, fast in zip(teacher.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
