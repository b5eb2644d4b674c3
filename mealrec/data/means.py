"""Mean frame features of every video, beside the content arrays that they are made from: training reads them at every step and
maps them, so that no process of it goes over the catalogue's frames or holds their means.

means/visual.npy, means/audio.npy   float32 [N + 1, d_v], [N + 1, d_a] (mealrec.model.summary)
float32 and not float16, so that nothing that is trained changes by their being kept.
"""

from __future__ import annotations

import shutil
from uuid import uuid4

import numpy as np
import torch

from mealrec.data.arrays import ContentArrays
from mealrec.durable import publish
from mealrec.model.summary import Summary, summarise

FOLDER = "means"
CHUNK = 1024  # videos whose frames are read at a time


def write(content: ContentArrays) -> None:
    """Make them where they are not there yet. By rename at the end: of several processes at once one gives them. Cost: one pass
    over the frames."""
    out = content.root / FOLDER
    if out.is_dir():
        return
    building = content.root / f"{FOLDER}.building-{uuid4().hex}"
    building.mkdir()
    try:
        rows, dims = content.items + 1, content.dims
        files = [
            np.lib.format.open_memmap(building / f"{name}.npy", "w+", np.float32, (rows, dims[f"{name}_dim"]))
            for name in Summary._fields
        ]
        for at in range(0, rows, CHUNK):
            index = torch.arange(at, min(at + CHUNK, rows))
            for file, means in zip(files, summarise(content.gather(index)), strict=True):
                file[at : at + len(index)] = means.numpy()
        for file in files:
            file.flush()
        publish(building, out)
    except OSError:
        if not out.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def mapped(content: ContentArrays) -> Summary:
    """The means as they lie on disk, shared by the processes of a node; what is written to them reaches no file. Made first
    for a dataset that came without."""
    write(content)
    files = (content.root / FOLDER / f"{name}.npy" for name in Summary._fields)
    return Summary(*(torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False)) for file in files))
