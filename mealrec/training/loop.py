"""The staged training loop: S0 without diffusion, S1 joint (model.md section 3).

Runs in one process or as one of several workers; needs torch and numpy alone. Every random draw is a function of
(seed, stage, epoch, step, rank), so a run resumed from a checkpoint equals an uninterrupted one without stored streams.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mealrec.data.batches import Batch, Windows, steps_per_epoch, training_batches
from mealrec.data.packed import Packed
from mealrec.model.inference import describe_range
from mealrec.model.mealrec import MealRec
from mealrec.model.precision import matmul
from mealrec.model.sizes import behind_zeros
from mealrec.training.average import decay_at, follow
from mealrec.training.candidates import Candidates, everything, sampled
from mealrec.training.facts import catalogue_facts, negatives
from mealrec.training.optimiser import clipped, optimiser
from mealrec.training.peers import Peers
from mealrec.training.progress import STAGES, Progress
from mealrec.training.settings import TrainSettings
from mealrec.training.step import (
    PARTS,
    Catalogue,
    Inputs,
    Losses,
    LossWeights,
    distinct,
    joint_loss,
    warmup_loss,
)
from mealrec.training.streams import mix
from mealrec.training.validation import check_targets, validate

# what the world outside wants now: nothing; a checkpoint, as a worker may soon be gone; a checkpoint and the end
Notice = Literal["none", "save", "stop"]


@dataclass
class State:
    """All that a checkpoint holds: weights, the EMA teacher, the best weights of the stage, optimiser, progress; pooled: the
    catalogue's item-mode tokens [N + 1, D] of an epoch with TCD that is under way."""

    model: MealRec
    teacher: MealRec
    best: dict[str, Tensor]
    optimiser: torch.optim.AdamW
    progress: Progress = field(default_factory=Progress)
    pooled: Tensor | None = None

    @classmethod
    def fresh(cls, model: MealRec, config: TrainSettings) -> State:
        teacher = copy.deepcopy(model).requires_grad_(False).eval()
        return cls(model, teacher, _copy_of(model), optimiser(model, "warmup", config))

    def to(self, device: torch.device, config: TrainSettings) -> State:
        """Itself, all of it on `device`."""
        before = self.optimiser.state_dict()
        self.optimiser = optimiser(self.model.to(device), self.progress.stage, config)
        self.optimiser.load_state_dict(before)  # moments go where their parameter is
        self.teacher.to(device)
        self.best = {name: tensor.to(device) for name, tensor in self.best.items()}
        self.pooled = None if self.pooled is None else self.pooled.to(device)
        return self


class Trainer:
    """Runs epochs of `state` over `data`. `say` gets a line for a person every few seconds; `notice` is asked after every step
    and tells all workers the same."""

    def __init__(
        self,
        data: Packed,
        config: TrainSettings,
        *,
        seed: int,
        peers: Peers | None = None,
        say: Callable[[str], None] = lambda line: None,
        notice: Callable[[], Notice] = lambda: "none",
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.config, self.seed = data, config, seed
        self.peers, self.say, self.notice, self.device = peers or Peers(), say, notice, torch.device(device)
        self.weights = LossWeights(
            plain=config.id_weight,
            tcd=config.tcd_weight,
            npd=config.npd_weight,
            reverse=config.reverse_weight,
            candidate_dropout=config.candidate_dropout,
        )
        self.steps = 1  # of an epoch
        self.facts = catalogue_facts(data, self.device)
        self.catalogue = self.facts
        self.negatives = negatives(self.facts.popularity, config.negatives)
        # a video that is never watched in training can only be learned as one to avoid: where content is trained to stand for
        # missing IDs, it is no candidate
        watched = self.facts.popularity > 0 if config.candidate_dropout else self.facts.popularity >= 0
        watched[0] = True
        self.learnable = watched.nonzero()[:, 0]
        # one copy of all candidates where every step needs them all; where it needs a few it takes them from the disk's pages
        self.learnable_rows = self.facts.rows(self.learnable) if self.negatives is None else None

    def run(
        self,
        state: State,
        on_epoch: Callable[[State], None] = lambda state: None,
        on_stage: Callable[[State], None] = lambda state: None,
        on_step: Callable[[State], None] = lambda state: None,
    ) -> None:
        """Train until every stage is done, or a notice says stop; `on_epoch` is called after each epoch, `on_step` after every
        config.checkpoint_steps steps inside one and after a step with a notice, both with a state that may be saved and gone on
        from; `on_stage` at the end of each stage, when state.best is what the stage gives. Raises ValueError where there is
        nothing to train or to validate with."""
        joint = 0 if state.model.settings.is_plain else self.config.joint_epochs
        limits = {"warmup": self.config.warmup_epochs, "joint": joint}
        windows = Windows.of(self.data, state.model.settings.max_history)
        if len(windows.spans) == 0:
            raise ValueError("no training window: every viewer has fewer than two training interactions")
        check_targets(self.data)
        while not state.progress.finished:
            stage = state.progress.stage
            if state.progress.epoch >= limits[stage] or state.progress.waited >= self.config.patience:
                on_stage(state)
                self._leave_stage(state)
                continue
            with matmul(self.config.matmul):
                is_whole = self._epoch(state, windows, on_step)
            if not is_whole:
                return
            on_epoch(state)

    def _leave_stage(self, state: State) -> None:
        if state.progress.epoch:
            state.model.load_state_dict(state.best)
        state.progress.enter_next_stage()
        if not state.progress.finished:
            state.optimiser = optimiser(state.model, state.progress.stage, self.config)
            state.teacher.load_state_dict(state.model.state_dict())
            state.best = _copy_of(state.model)

    def _epoch(self, state: State, windows: Windows, on_step: Callable[[State], None]) -> bool:
        """False for one that was told to stop."""
        progress, began = state.progress, time.monotonic()
        self._begin(state)
        parts = self._train(state, windows, on_step)
        if parts is None:
            return False
        progress.step, progress.losses, state.pooled = 0, {}, None
        served = state.teacher if self.config.average else state.model
        metrics = validate(
            served,
            self.data,
            self.facts if progress.stage == "warmup" else self._refresh(served),
            self.peers,
            most=self.config.validation_viewers,
            device=self.device,
        )
        progress.epoch += 1
        progress.total_epochs += 1
        if metrics["ndcg@10"] > progress.best:
            progress.best, progress.waited, state.best = metrics["ndcg@10"], 0, _copy_of(served)
        else:
            progress.waited += 1
        entry = {"epoch": progress.total_epochs, "stage": progress.stage, **parts, **metrics}
        progress.curves.append(entry)
        planned = self.config.warmup_epochs if progress.stage == "warmup" else self.config.joint_epochs
        figures = " ".join(f"{k} {v:.4f}" for k, v in entry.items() if isinstance(v, float))
        self.say(f"{progress.stage} epoch {progress.epoch}/{planned}: {figures} ({time.monotonic() - began:.1f} s)")
        return True

    def _begin(self, state: State) -> None:
        """The catalogue as this epoch sees it: made from the weights that the epoch began with, which a run that goes on inside
        the epoch no longer has."""
        if state.progress.stage == "warmup":
            self.see(self.facts)
        elif state.pooled is not None:
            self.see(dataclasses.replace(self.facts, pooled=state.pooled.to(self.device)))
        else:
            self.see(self._refresh(state.model))
        state.pooled = self.catalogue.pooled

    def see(self, catalogue: Catalogue) -> None:
        """The steps to come score against `catalogue`: the facts, with an epoch's pooled tokens or without."""
        self.catalogue, pooled = catalogue, catalogue.pooled
        if self.learnable_rows is not None:
            own = None if pooled is None else pooled[self.learnable]
            self.learnable_rows = dataclasses.replace(self.learnable_rows, pooled=own)

    def _train(self, state: State, windows: Windows, on_step: Callable[[State], None]) -> dict[str, float] | None:
        """The mean loss of each part, None when told to stop."""
        state.model.train()
        progress, steps = state.progress, steps_per_epoch(windows, self.config.batch_size)
        self.steps = steps
        sums: dict[str, float] = {}
        last_said = time.monotonic()
        batches = training_batches(
            self.data,
            windows,
            batch_size=self.config.batch_size,
            seed=self.seed,
            epoch=progress.total_epochs,
            start=progress.step,
            rank=self.peers.rank,
            world=self.peers.world,
        )
        every = self.config.checkpoint_steps
        for step, batch in enumerate(batches, start=progress.step):
            losses = self._step(state, batch, step)
            for name, value in losses.parts.items():
                sums[name] = sums.get(name, 0.0) + value
            progress.step = step + 1
            notice = self.notice()
            if notice != "none" or (every and progress.step % every == 0 and progress.step < steps):
                self._settle(progress, sums)
                on_step(state)
                state.model.train()
            if notice == "stop":
                return None
            if time.monotonic() - last_said > 5:
                last_said = time.monotonic()
                self.say(f"{progress.stage} epoch {progress.epoch + 1}: step {step + 1}/{steps}")
        self._settle(progress, sums)
        return {f"loss_{name}": value / steps for name, value in progress.losses.items()}

    def _settle(self, progress: Progress, sums: dict[str, float]) -> None:
        """Move all workers' sums of losses into the progress. A worker may have had no row yet, so every part is asked for."""
        found = torch.tensor([[sums.get(n, 0.0), float(n in sums)] for n in PARTS], dtype=torch.float64)
        for name, (value, there) in zip(PARTS, self.peers.total(found).tolist(), strict=True):
            if there:
                progress.losses[name] = progress.losses.get(name, 0.0) + value
        sums.clear()

    def _step(self, state: State, batch: Batch, step: int) -> Losses:
        where = [self.seed, STAGES.index(state.progress.stage), state.progress.epoch, step, self.peers.rank]
        torch.manual_seed(mix([*where, 0]))  # dropout
        rng = torch.Generator(self.device).manual_seed(mix([*where, 1]))  # noise, corruption, condition dropout
        state.optimiser.zero_grad(set_to_none=True)
        losses = self._losses(state, batch, rng)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.peers.add_gradients(state.model.parameters())
        for group in clipped(state.model):  # each by itself: the denoiser's steps must not shorten the model's
            nn.utils.clip_grad_norm_(group, self.config.clip_norm)
        state.optimiser.step()
        follow(state.teacher, state.model, self._decay(state, step))
        return losses

    def _decay(self, state: State, step: int) -> float:
        return decay_at(state.progress.epoch * self.steps + step, self.config.ema_decay)

    def _losses(self, state: State, batch: Batch, rng: torch.Generator) -> Losses:
        history, target = batch.history.to(self.device), batch.target.to(self.device)
        positions = float(batch.positions)
        if len(history) == 0:  # this worker has no row of the last batch; its gradients are zero
            zero = sum((p.sum() * 0 for p in state.model.parameters() if p.requires_grad), torch.zeros(()))
            return Losses(zero, {})
        videos = behind_zeros(distinct(history, target))
        candidates = self._candidates(videos, rng)
        catalogue = self.learnable_rows or self.catalogue.rows(candidates.items)
        if state.progress.stage == "warmup":
            plain = Inputs(history, target, candidates, catalogue, videos, None)
            return warmup_loss(state.model, plain, self.weights, positions, rng)
        share = None if batch.share is None else behind_zeros(batch.share.to(self.device))
        inputs = Inputs(history, target, candidates, catalogue, videos, self.data.content.gather(videos), share)
        return joint_loss(state.model, state.teacher, inputs, self.weights, positions, rng)

    def _candidates(self, videos: Tensor, rng: torch.Generator) -> Candidates:
        if self.negatives is None:
            return everything(self.learnable)
        return sampled(videos, self.negatives, rng)

    def _refresh(self, model: MealRec) -> Catalogue:
        """The catalogue with item-mode tokens of every video, each worker computing its part."""
        model.eval()
        n, peers = self.data.items, self.peers
        start, end = 1 + n * peers.rank // peers.world, 1 + n * (peers.rank + 1) // peers.world
        pooled = torch.zeros(n + 1, model.settings.width, device=self.device)
        pooled[start:end] = describe_range(model, self.data.content.gather, start, end).pooled
        return dataclasses.replace(self.facts, pooled=peers.total(pooled))


def _copy_of(model: MealRec) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}
