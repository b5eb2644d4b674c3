"""The model bundle: everything a recommender needs, in one folder of safetensors, JSON and .npy (no pickle).

bundle.json             format, model settings, token kind, data versions
model.safetensors       weights of the best epoch
catalogue.safetensors   described and plain [N + 1, D] and salience [N + 1, F] of every video in item mode (model.md 4)
refined.npy, key.npy    float16 [N + 1, F, D], redundancy.npy float16 [N + 1, F]: item-mode tokens, to weigh them for a viewer
items.json              video ids; item_index i is items[i - 1]
*.npy                   the content arrays (mealrec.data.arrays)
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mealrec.data.packed import Packed
from mealrec.durable import publish
from mealrec.model.inference import parts
from mealrec.model.mealrec import MealRec

FORMAT = 4
CHUNK = 512


def write(model: MealRec, data: Packed, out: Path) -> Path:
    """Write the bundle into `out`, by rename at the end. Cost: one item-mode TCD run for each video."""
    building = out.with_name(out.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    model.eval()
    save_file({k: v.detach().contiguous() for k, v in model.state_dict().items()}, building / "model.safetensors")
    save_file(_catalogue(model, data, building), building / "catalogue.safetensors")
    data.content.copy_to(building)
    shutil.copyfile(data.root / "items.json", building / "items.json")
    body: dict[str, Any] = {"format": FORMAT, "settings": asdict(model.settings), "data": data.meta}
    (building / "bundle.json").write_text(json.dumps(body, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    publish(building, out)
    return out


def _catalogue(model: MealRec, data: Packed, folder: Path) -> dict[str, Tensor]:
    """Vectors of every video, row 0 zeros; their tokens go to mapped files, a chunk of the catalogue in memory."""
    settings = model.settings
    rows = data.items + 1
    shapes = {"refined": (rows, settings.frames, settings.width), "redundancy": (rows, settings.frames)}
    shapes["key"] = shapes["refined"]
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape)
        for name, shape in shapes.items()
    }
    vectors = {
        "described": torch.zeros(rows, settings.width),
        "plain": torch.zeros(rows, settings.width),
        "salience": torch.zeros(rows, settings.frames),
    }
    device = model.null_id.device
    for at in range(1, rows, CHUNK):
        index = torch.arange(at, min(at + CHUNK, rows), device=device)
        found = parts(model, data.content.gather, index)._asdict()
        for name, tensor in vectors.items():
            tensor[at : at + len(index)] = found[name].cpu()
        for name, file in files.items():
            file[at : at + len(index)] = found[name].cpu().numpy()
    for file in files.values():
        file.flush()
    return vectors
