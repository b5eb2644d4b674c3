"""Where a run goes on from: its newest checkpoint, or, where a crash of the machine or a disk has damaged that one, the newest
kept one that is whole. The run costs some steps more and ends as it would have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from mealrec.model.settings import ModelSettings
from mealrec.training import checkpoint
from mealrec.training.checkpoint import CheckpointError, Damaged
from mealrec.training.loop import State
from mealrec.training.peers import Peers
from mealrec.training.settings import TrainSettings

PATTERN = "checkpoint_*"  # as Ray names them, by the time of each: their order is that of the alphabet


def kept(newest: Path) -> list[Path]:
    """`newest` and the older ones beside it, newest first. What is newer a worker may still be writing."""
    older = [path for path in newest.parent.glob(PATTERN) if path.is_dir() and path.name < newest.name]
    return [newest, *sorted(older, reverse=True)]


def newest_whole(
    newest: Path, settings: ModelSettings, config: TrainSettings, say: Callable[[str], None] = lambda line: None
) -> State:
    """The state of `newest`, or of the next older one that is whole. Raises CheckpointError where none is, and for one of other
    settings, which no older one would mend."""
    damages = []
    for folder in kept(newest):
        try:
            state = checkpoint.load(folder, settings, config)
        except Damaged as error:
            damages.append(str(error))
            say(f"{error}: going back to the one before it")
        else:
            return state
    raise CheckpointError(
        f"no checkpoint of this run is whole ({'; '.join(damages)}): remove {newest.parent} to train from the beginning"
    )


def agreed(state: State, peers: Peers) -> State:
    """`state`, once every worker stands at the same place. Raises CheckpointError where they read different checkpoints, as
    when one of them alone can't read the newest."""
    here = torch.tensor([state.progress.total_epochs, state.progress.step])
    together = peers.total(here.clone())
    if not torch.equal(together, here * peers.world):
        raise CheckpointError(f"the workers read different checkpoints: this one stands at epoch, step {here.tolist()}")
    return state
