"""What training knows of the whole catalogue lies on disk, and nothing that is trained tells it from what lies in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mealrec.data import means
from mealrec.data.packed import Packed
from mealrec.model import softmax
from mealrec.model.mealrec import MealRec
from mealrec.model.summary import summarise
from mealrec.training import facts
from mealrec.training.loop import State, Trainer
from mealrec.training.settings import TrainSettings
from mealrec.training.step import Catalogue
from tests.conftest import write_packed
from tests.training.killed_run import digest, settings_of

CONFIG = TrainSettings(warmup_epochs=1, joint_epochs=1, batch_size=16, lr=5e-3, joint_lr=2e-3)


def file_of(tensor: torch.Tensor) -> Path | None:
    """The file that a tensor's memory is mapped from, None where it is of no file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, path = line.split(maxsplit=5)
        start, end = (int(bound, 16) for bound in span.split("-"))
        if start <= tensor.data_ptr() < end:
            return Path(path) if path.startswith("/") else None
    return None


def in_memory(data: Packed) -> Catalogue:
    content = data.content
    return Catalogue(
        summarise(content.gather(torch.arange(data.items + 1))),
        content.text().float(),
        content.has_frames(),
        content.available(),
        content.log_popularity(),
        content.train_count().float(),
    )


def trained(data: Packed, config: TrainSettings, known: Catalogue | None) -> str:
    torch.manual_seed(5)
    state = State.fresh(MealRec(settings_of(data)), config)
    trainer = Trainer(data, config, seed=9)
    if known is not None:
        trainer.facts = known
        if trainer.learnable_rows is not None:
            trainer.learnable_rows = known.rows(trainer.learnable)
    trainer.run(state)
    return digest(state)


@pytest.mark.parametrize("negatives", [0, 12])
def test_what_is_mapped_trains_as_what_is_in_memory_does_bit_for_bit(packed: Packed, negatives: int) -> None:
    config = dataclasses.replace(CONFIG, negatives=negatives)
    assert trained(packed, config, None) == trained(packed, config, in_memory(packed))


def test_a_worker_holds_no_copy_of_the_catalogues_means_and_titles_where_candidates_are_sampled(tmp_path: Path) -> None:
    data = write_packed(tmp_path / "packed", items=3000, widths=(64, 32, 16))
    trainer = Trainer(data, dataclasses.replace(CONFIG, negatives=12), seed=1)
    for known in (trainer.facts, Trainer(data, dataclasses.replace(CONFIG, negatives=0), seed=1).facts):
        assert file_of(known.summary.visual) == data.root / "means" / "visual.npy"
        assert file_of(known.summary.audio) == data.root / "means" / "audio.npy"
        assert file_of(known.text) == data.root / "text.npy"
    assert trainer.learnable_rows is None and trainer.catalogue is trainer.facts


def test_means_are_made_once_and_are_those_of_the_frames(packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(means, "CHUNK", 7)
    found = means.mapped(packed.content)
    wanted = summarise(packed.content.gather(torch.arange(packed.items + 1)))
    assert torch.equal(found.visual, wanted.visual) and torch.equal(found.audio, wanted.audio)
    assert found.visual.dtype == torch.float32
    written = (packed.root / "means" / "visual.npy").stat().st_mtime_ns
    means.mapped(packed.content).visual.zero_()
    assert torch.equal(means.mapped(packed.content).visual, wanted.visual), "what is written to them reaches no file"
    assert (packed.root / "means" / "visual.npy").stat().st_mtime_ns == written
    assert [path.name for path in packed.root.glob("means*")] == ["means"]


def test_the_catalogues_vectors_do_not_depend_on_how_many_are_made_at_a_time(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    model, known = MealRec(settings_of(packed)).eval(), facts.catalogue_facts(packed)
    whole = facts.item_vectors(model, known)
    monkeypatch.setattr(facts, "CHUNK", 7)
    assert torch.allclose(facts.item_vectors(model, known), whole, atol=1e-6)


def test_up_to_so_many_videos_all_are_candidates_and_a_sample_above_unless_the_setting_says_otherwise() -> None:
    few, many = (torch.ones(softmax.FULL_SOFTMAX_UP_TO + 1 + more) for more in (0, 1))
    assert facts.negatives(few, None) is None and facts.negatives(many, 0) is None
    above, asked = facts.negatives(many, None), facts.negatives(few, 7)
    assert above is not None and above.count == facts.SAMPLED
    assert asked is not None and asked.count == 7
    assert np.isclose(float(above.probability.sum()), 1) and float(above.probability[0]) == 0
