"""RecBole 1.2.1 training SASRec: target positions a second, and seconds to its best validation NDCG@10. Run by
benchmarks/training.py in RecBole's own environment (`make peers`).

    python recbole_training.py FOLDER --name NAME --batch 2048 --threads 2 --steps 20
    python recbole_training.py FOLDER --name NAME --batch 2048 --threads 2 --patience 5

FOLDER/NAME/NAME.inter is RecBole's atomic file with order. RecBole makes a row of each target position and does not mask the
history when it ranks. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any


class FirstBatches:
    """The first batches of a RecBole loader."""

    def __init__(self, loader: Any, count: int) -> None:
        self.loader, self.count = loader, count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), self.count)

    def __len__(self) -> int:
        return min(self.count, len(self.loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def prepared(given: argparse.Namespace) -> tuple[Any, Any, Any]:
    """RecBole's trainer, training loader and validation loader."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer

    torch.set_num_threads(given.threads)
    settings = {
        "data_path": given.folder,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "TIME_FIELD": "timestamp",
        "MAX_ITEM_LIST_LENGTH": given.history,
        "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        "metrics": ["Hit", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "hidden_size": given.width,
        "inner_size": 4 * given.width,
        "n_layers": given.layers,
        "n_heads": 2,
        "train_batch_size": given.batch,
        "eval_batch_size": 2048,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config(model="SASRec", dataset=given.name, config_dict=settings)
    train, valid, _ = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    return Trainer(config, SASRec(config, train.dataset)), train, valid


def speed(trainer: Any, train: Any, batch: int, steps: int) -> dict[str, float]:
    trainer._train_epoch(FirstBatches(train, 2), 0)
    part = FirstBatches(train, steps)
    began = time.perf_counter()
    trainer._train_epoch(part, 0)
    seconds = time.perf_counter() - began
    positions = min(len(part) * batch, len(train.dataset))
    rate = positions / seconds
    return {"positions": positions, "positions_per_s": rate, "s_an_epoch": len(train.dataset) / rate}


def until_best(trainer: Any, train: Any, valid: Any, patience: int) -> dict[str, Any]:
    """Training and validation seconds until the best validation NDCG@10, `patience` epochs without a better one ending it."""
    best, at, spent, waited, epoch, curve = -1.0, 0.0, 0.0, 0, 0, []
    while waited < patience:
        began = time.perf_counter()
        trainer._train_epoch(train, epoch)
        found = float(trainer._valid_epoch(valid)[1]["ndcg@10"])
        spent += time.perf_counter() - began
        epoch += 1
        curve.append([round(spent, 1), round(found, 4)])
        print(epoch, round(spent, 1), found, flush=True)
        best, at, waited = (found, spent, 0) if found > best else (best, at, waited + 1)
    return {"epochs": epoch, "best_valid_ndcg@10": best, "seconds_to_best": at, "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=0, help="time this many steps")
    parser.add_argument("--patience", type=int, default=0, help="train until so many epochs bring nothing better")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    trainer, train, valid = prepared(given)
    found: dict[str, Any] = speed(trainer, train, given.batch, given.steps) if given.steps else {}
    if given.patience:
        found |= until_best(trainer, train, valid, given.patience)
    print(json.dumps(found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
