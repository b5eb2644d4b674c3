"""A made-up catalogue whose salient frames, order and duplicates are known (model.md 5.1): can TCD find them?

Every video has F frames: two salient ones that carry its topic and one of two marks (A, B), a duplicate right after one of
the two, and background frames from a pool shared by all videos, which show a decoy topic: more frames speak of the decoy than
of the topic, so a mean over frames is misled. The order of the marks is the only thing that tells half of the viewers'
videos apart: as bags of frames, an AB and a BA video are the same. The other half goes by topic. A fifth of the videos are
never watched, so that only content can rank them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from mealrec.data.packed import Packed, training_part
from mealrec.data.split import leave_one_out
from mealrec.evaluation.salience import frame_auc
from mealrec.model.inference import describe_range, preference
from mealrec.model.mealrec import MealRec
from mealrec.training.facts import catalogue_facts

FRAMES, WIDTH, TOPICS, BACKGROUNDS = 8, 24, 6, 20
LIKED = 0.9  # share of a viewer's items that follow the viewer's taste
NOISE = 0.25
Floats = npt.NDArray[np.float64]


class World(NamedTuple):
    """topic [N + 1], is_ab [N + 1] (mark A before mark B), salient and duplicate [N + 1, F], unwatched [N + 1]; by viewer:
    taste_topic (-1 for a viewer of order), taste_ab (0 or 1; -1 for a viewer of topics)."""

    topic: npt.NDArray[np.int64]
    is_ab: npt.NDArray[np.bool_]
    salient: npt.NDArray[np.bool_]
    duplicate: npt.NDArray[np.bool_]
    unwatched: npt.NDArray[np.bool_]
    taste_topic: npt.NDArray[np.int64]
    taste_ab: npt.NDArray[np.int64]


class Found(NamedTuple):
    """salience_auc: salient against background frames; duplicate_ratio: mean weight of a duplicate over that of the frame it
    repeats; topic_auc, order_auc: how well never watched videos are ranked for viewers of topics and of order (.5: chance)."""

    salience_auc: float
    duplicate_ratio: float
    topic_auc: float
    order_auc: float


def make(folder: Path, *, items: int = 300, viewers: int, length: int, seed: int = 0) -> tuple[Packed, World]:
    """Write the world as a packed dataset. Deterministic in `seed`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    visual, world = _videos(rng, items, viewers)
    sequence = np.concatenate([_history(rng, world, v, length) for v in range(viewers)])
    offsets = np.arange(viewers + 1) * length
    counts = np.bincount(training_part(sequence, offsets, leave_one_out(offsets))[0], minlength=items + 1)
    everywhere = np.arange(items + 1)[:, None] > 0
    arrays = {
        "visual": visual.astype(np.float16),
        "audio": np.zeros((items + 1, FRAMES, 0), np.float16),
        "text": np.zeros((items + 1, 0), np.float16),
        "position": np.tile(np.arange(FRAMES) / FRAMES, (items + 1, 1)).astype(np.float32),
        "times": np.tile(np.arange(FRAMES) * 1000, (items + 1, 1)),
        "frame_mask": np.tile(everywhere, (1, FRAMES)),
        "available": everywhere & np.array([True, False, False]),
        "train_count": counts,
        "sequence": sequence,
        "offsets": offsets,
        "viewers": np.array([f"u{v}" for v in range(viewers)]),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "items.json").write_text(json.dumps([f"v{i}" for i in range(1, items + 1)]))
    (folder / "meta.json").write_text(json.dumps({"protocol": "leave-one-out", "tokens": "frames"}))
    return Packed.open(folder), world


def _videos(rng: np.random.Generator, items: int, viewers: int) -> tuple[Floats, World]:
    topics = rng.normal(size=(TOPICS, WIDTH))
    marks = rng.normal(size=(2, WIDTH))
    backgrounds = rng.normal(size=(BACKGROUNDS, WIDTH))
    visual = np.zeros((items + 1, FRAMES, WIDTH))
    salient, duplicate = np.zeros((2, items + 1, FRAMES), dtype=bool)
    topic, is_ab = rng.integers(0, TOPICS, items + 1), rng.random(items + 1) < 0.5
    for item in range(1, items + 1):
        decoy = int(rng.integers(TOPICS))
        copied = int(rng.integers(2))  # which of the two salient frames is repeated: says nothing about the order
        # never neighbours: the second would look redundant after the first, and so tell the order without any guidance
        first, second = 0, 1
        while second - first < 2:
            first, second = sorted(rng.choice(FRAMES - 1, 2, replace=False))
        frames: list[tuple[str, Floats]] = []
        for place in range(FRAMES - 1):
            if place not in (first, second):
                frames.append(("background", backgrounds[rng.integers(BACKGROUNDS)] + topics[decoy]))
                continue
            mark = int(is_ab[item]) ^ (place == first)  # AB: the first carries mark 0
            frame = topics[topic[item]] + marks[mark]
            frames.append(("salient", frame))
            if (copied == 0) == (mark == 0):
                frames.append(("duplicate", frame))
        assert len(frames) == FRAMES
        previous = np.zeros(WIDTH)
        for place, (kind, frame) in enumerate(frames):
            salient[item, place], duplicate[item, place] = kind == "salient", kind == "duplicate"
            small = NOISE / 10 if kind == "duplicate" else NOISE
            base = previous if kind == "duplicate" else frame
            visual[item, place] = previous = base + rng.normal(size=WIDTH) * small
    unwatched = rng.random(items + 1) < 0.2
    by_order = np.arange(viewers) % 2 == 0
    taste_topic = np.where(by_order, -1, rng.integers(0, TOPICS, viewers))
    taste_ab = np.where(by_order, rng.integers(0, 2, viewers), -1)
    return visual, World(topic, is_ab, salient, duplicate, unwatched, taste_topic, taste_ab)


def _history(rng: np.random.Generator, world: World, viewer: int, length: int) -> npt.NDArray[np.int64]:
    liked = _liked(world, viewer)
    watched = ~world.unwatched
    watched[0] = False
    own, rest = np.nonzero(liked & watched)[0], np.nonzero(~liked & watched)[0]
    wanted = min(int((rng.random(length) < LIKED).sum()), len(own))
    chosen = np.concatenate([rng.choice(own, wanted, replace=False), rng.choice(rest, length - wanted, replace=False)])
    return rng.permutation(chosen).astype(np.int64)


def _liked(world: World, viewer: int) -> npt.NDArray[np.bool_]:
    by_topic = world.taste_topic[viewer] >= 0
    liked: npt.NDArray[np.bool_] = (
        world.topic == world.taste_topic[viewer] if by_topic else world.is_ab == bool(world.taste_ab[viewer])
    )
    return liked


@torch.no_grad()
def measure(model: MealRec, data: Packed, world: World) -> Found:
    """What a trained model found of what is known. Every viewer's never watched videos are ranked against each other."""
    model.eval()
    described = describe_range(model, data.content.gather, 1, data.items + 1)
    weights = described.salience.double().numpy()
    salient, duplicate = world.salient[1:], world.duplicate[1:]
    kept = ~duplicate
    pairs = [(w[k], t[k]) for w, t, k in zip(weights, salient, kept, strict=True)]
    auc = frame_auc([w for w, _ in pairs], [t for _, t in pairs]).auc
    rows, places = np.nonzero(duplicate)
    ratio = float(weights[rows, places].mean() / weights[rows, places - 1].mean())
    facts = catalogue_facts(data)
    padded = torch.cat([torch.zeros_like(described.described[:1]), described.described])
    vectors = model.catalogue(padded, facts.available, facts.log_popularity)
    history = torch.from_numpy(np.asarray(data.sequence).reshape(data.viewers, -1)[:, :-1].copy())
    scores = model.scores(preference(model, data.content.gather, history).state, vectors).double().numpy()
    fresh = np.nonzero(world.unwatched)[0]
    fresh = fresh[fresh > 0]
    aucs: dict[bool, list[float]] = {True: [], False: []}
    for viewer in range(data.viewers):
        liked = _liked(world, viewer)[fresh]
        aucs[bool(world.taste_topic[viewer] >= 0)].append(_auc(scores[viewer, fresh], liked))
    return Found(auc, ratio, float(np.mean(aucs[True])), float(np.mean(aucs[False])))


def _auc(scores: Floats, liked: npt.NDArray[np.bool_]) -> float:
    """Probability that a liked video scores above another."""
    above = scores[liked][:, None] - scores[~liked][None, :]
    return float(((above > 0) + 0.5 * (above == 0)).mean())
