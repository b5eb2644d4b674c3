"""How many viewers a second RecBole 1.2.1 ranks in full with SASRec. Run by benchmarks/ranking.py in RecBole's own environment.

    python recbole_ranking.py FOLDER --name NAME --width 64 --layers 2 --history 50 --batch 512 --threads 2

FOLDER/NAME/NAME.inter is RecBole's atomic file with order. Nothing is trained: ranking costs the same with any weights. Timed
is `Trainer.evaluate`, as RecBole calls it after training, over the first --viewers test viewers: each costs the same, padded.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--name", required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--viewers", type=int, default=10**9)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.data.dataloader import FullSortEvalDataLoader
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
        "metrics": ["Hit", "NDCG", "MRR"],
        "topk": [5, 10, 20],
        "valid_metric": "NDCG@10",
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "hidden_size": given.width,
        "inner_size": 4 * given.width,
        "n_layers": given.layers,
        "n_heads": 2,
        "eval_batch_size": given.batch,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
    }
    config = Config(model="SASRec", dataset=given.name, config_dict=settings)
    train, _, tested = create_dataset(config).build()
    tested.inter_feat = tested.inter_feat[: given.viewers]
    test = FullSortEvalDataLoader(config, tested, None, shuffle=False)
    torch.manual_seed(0)
    model = SASRec(config, train)
    trainer = Trainer(config, model)
    began = time.perf_counter()
    found = trainer.evaluate(test, load_best_model=False, show_progress=False)
    seconds = time.perf_counter() - began
    viewers = len(tested.inter_feat)
    body = {"viewers": viewers, "seconds": seconds, "viewers_per_s": viewers / seconds, "items": model.n_items - 1}
    print(json.dumps({**body, "hit@10": float(found["hit@10"])}))


if __name__ == "__main__":
    main()
