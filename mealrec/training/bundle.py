"""The model bundle: everything a recommender needs, in one folder of safetensors, JSON and .npy (no pickle).

bundle.json             format, model settings, token kind, data versions
model.safetensors       weights of the best epoch
catalogue.safetensors   described [N + 1, D] and salience [N + 1, F] of every video in item mode (model.md 4)
items.json              video ids; item_index i is items[i - 1]
*.npy                   the content arrays (mealrec.data.arrays)
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mealrec.data.packed import Packed
from mealrec.model.inference import describe_range
from mealrec.model.mealrec import MealRec

FORMAT = 3


def write(model: MealRec, data: Packed, out: Path) -> Path:
    """Write the bundle into `out`, by rename at the end. Cost: one item-mode TCD run for each video."""
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    model.eval()
    described = describe_range(model, data.content.gather, 1, data.items + 1)
    padding = torch.zeros(1, model.settings.width), torch.zeros(1, model.settings.frames)
    save_file({k: v.detach().contiguous() for k, v in model.state_dict().items()}, building / "model.safetensors")
    save_file(
        {
            "described": torch.cat([padding[0], described.described]),
            "salience": torch.cat([padding[1], described.salience]),
        },
        building / "catalogue.safetensors",
    )
    data.content.copy_to(building)
    shutil.copyfile(data.root / "items.json", building / "items.json")
    body: dict[str, Any] = {"format": FORMAT, "settings": asdict(model.settings), "data": data.meta}
    (building / "bundle.json").write_text(json.dumps(body, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    building.rename(out)
    return out
