"""The average of the weights: the teacher of NPD, and what is validated and kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mealrec.data.packed import Packed
from mealrec.training.average import decay_at, follow
from mealrec.training.loop import State, Trainer
from tests.training.killed_run import CONFIG, SEED, fresh


def test_the_average_forgets_where_it_started_and_then_moves_slowly() -> None:
    assert decay_at(0, 0.999) == 0.1 and decay_at(90, 0.999) == 0.91 and decay_at(10**6, 0.999) == 0.999
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(model.weight, 2.0)
    follow(average, model, 0.75)
    assert float(average.weight.detach()) == 1.25 and float(model.weight.detach()) == 2.0


@pytest.mark.parametrize("average", [True, False])
def test_what_is_kept_is_the_average_of_every_steps_weights_or_the_last_ones(packed: Packed, average: bool) -> None:
    config = replace(CONFIG, joint_epochs=0, average=average, checkpoint_steps=1)
    state, wanted, steps = fresh(packed), fresh(packed).teacher, 0
    trainer = Trainer(packed, config, seed=SEED)
    plain_step = trainer._step

    def step(*arguments: object) -> object:
        nonlocal steps
        out = plain_step(*arguments)  # type: ignore[arg-type]
        follow(wanted, state.model, decay_at(steps, config.ema_decay))
        steps += 1
        return out

    trainer._step = step  # type: ignore[assignment,method-assign]
    ended: list[State] = []
    trainer.run(state, on_epoch=ended.append)
    assert steps > 1 and len(ended) == 1
    same = [torch.equal(tensor, state.best[name]) for name, tensor in wanted.state_dict().items()]
    assert all(same) == average
