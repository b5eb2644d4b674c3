"""A short training run killed with SIGKILL after each of its steps, and again three steps later, then let go to its end.

    python -m tests.training.killed_run PACKED FOLDER

Imports once and forks for each life, so that a life costs a fraction of a second. Prints one JSON: the digest of the run that
nobody killed, and that of each killed one by the step after which it was first killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # torch's optimisers import it at their first step: here once, not in every life

from mealrec.data.packed import Packed
from mealrec.model.mealrec import MealRec
from mealrec.model.settings import ModelSettings
from mealrec.training import checkpoint
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings

CONFIG = TrainSettings(
    warmup_epochs=1, joint_epochs=2, batch_size=16, lr=5e-3, joint_lr=2e-3, checkpoint_steps=2, ema_decay=0.9
)
SHORT = replace(CONFIG, joint_epochs=1, batch_size=8)
SEED = 9
AGAIN = 3  # steps until the second kill


def settings_of(packed: Packed) -> ModelSettings:
    return ModelSettings(**packed.content.dims, width=16, max_history=8)


def fresh(packed: Packed) -> State:
    torch.manual_seed(5)
    return State.fresh(MealRec(settings_of(packed)), CONFIG)


def digest(state: State) -> str:
    """Of everything that a finished run leaves."""
    found = hashlib.sha256(json.dumps(state.progress.to_json(), sort_keys=True).encode())
    for tensors in (state.model.state_dict(), state.teacher.state_dict(), state.best):
        for name in sorted(tensors):
            found.update(tensors[name].detach().numpy().tobytes())
    return found.hexdigest()


def live(packed: Packed, folder: Path, die_after: int | None) -> str:
    """From the last checkpoint, or from the beginning, to the end or to a death after so many steps."""
    last = folder / "last"
    state = checkpoint.load(last, settings_of(packed), SHORT) if (last / "state.json").is_file() else fresh(packed)
    trainer, steps = Trainer(packed, SHORT, seed=SEED), 0
    plain_step = trainer._step

    def step(*arguments: object) -> object:
        nonlocal steps
        out = plain_step(*arguments)  # type: ignore[arg-type]
        steps += 1
        if steps == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return out

    trainer._step = step  # type: ignore[assignment,method-assign]
    save: Callable[[State], None] = lambda held: checkpoint.save(held, last)  # noqa: E731
    trainer.run(state, save, on_step=save)
    return digest(state)


def in_a_fork(work: Callable[[], str], answer: Path) -> None:
    child = os.fork()
    if child == 0:
        answer.write_text(work())
        os._exit(0)
    os.waitpid(child, 0)


def main(packed: Packed, folder: Path) -> dict[str, object]:
    ends: dict[int, str] = {}
    in_a_fork(lambda: live(packed, folder / "whole", None), folder / "whole.txt")
    for kill_at in range(1, 1000):
        own, answer = folder / str(kill_at), folder / f"{kill_at}.txt"
        in_a_fork(lambda own=own, kill_at=kill_at: live(packed, own, kill_at), answer)  # type: ignore[misc]
        if answer.exists():  # the run has fewer steps
            break
        in_a_fork(lambda own=own: live(packed, own, AGAIN), answer)  # type: ignore[misc]
        in_a_fork(lambda own=own: live(packed, own, None), answer)  # type: ignore[misc]
        ends[kill_at] = answer.read_text()
    return {"whole": (folder / "whole.txt").read_text(), "killed": ends}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Packed.open(Path(sys.argv[1])), Path(sys.argv[2]))))
