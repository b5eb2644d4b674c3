"""What a bundle says of the catalogue is what the model that it was written from says."""

from __future__ import annotations

from pathlib import Path

import torch

from mealrec.data.packed import Packed
from mealrec.model.inference import parts
from mealrec.model.mealrec import MealRec
from mealrec.serving.recommender import Recommender
from mealrec.training import bundle
from tests.training.killed_run import settings_of


def test_vectors_and_tokens_read_back_from_disk_are_the_live_ones_of_the_same_video(
    packed: Packed, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = MealRec(settings_of(packed)).eval()
    for layer in (model.salience.query, model.tcd.denoiser.out):  # zero at the start, and then nothing is refined
        torch.nn.init.normal_(layer.weight, std=0.1)
    read = Recommender.load(bundle.write(model, packed, tmp_path / "bundle"))
    items = torch.tensor([30, 1, 5, 17])  # of which 5 has no content
    live = parts(model, packed.content.gather, items)
    for name in ("described", "plain", "salience"):
        assert torch.allclose(getattr(read.cached, name)[items], getattr(live, name), atol=1e-5), name
    for name in ("refined", "key", "redundancy"):
        found, wanted = read.cached.take(name, items), getattr(live, name)
        assert torch.allclose(found, wanted, atol=2e-3, rtol=2e-3), name
    with torch.no_grad():
        wanted = model.catalogue(live.described, read.available[items], read.log_popularity[items])
        ids = model.id_vectors(items, read.log_popularity[items])
    other = model.fusion(ids, live.described, read.available[items], read.log_popularity[items])
    assert torch.allclose(read.catalogue[items], other, atol=1e-5) and wanted.shape == other.shape
    assert float((live.described[0] - live.described[1]).abs().max()) > 1e-3, "else any video's would do"
