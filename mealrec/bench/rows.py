"""The rows of the result tables: every model by name, what it is made of, and what may be tuned.

Rows of kind `counts` are computed, `trained` are baselines of mealrec.model.baselines trained by mealrec.training.fit, `model`
rows are the same network as MealRec with parts switched on or off, trained by the product's own loop. The SASRec row is
therefore MealRec without content, diffusion and denoising, and differs from it in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["counts", "trained", "model"]
Space = Mapping[str, tuple[Any, ...]]

# what every neural row shares unless tuned: see the tuning results
SHARED: Mapping[str, Any] = {
    "batch_size": 64,
    "warmup_epochs": 60,
    "joint_epochs": 8,
    "patience": 5,
    "lr": 1e-3,
    "max_history": 20,
}
# batches of which an epoch has about a hundred, for every row alike; histories as model.md section 1 has them
OF_DATASET: Mapping[str, Mapping[str, Any]] = {
    "bili_dance": {"batch_size": 128},
    "microlens50k": {"batch_size": 512, "max_history": 10},
}
NETWORK: Mapping[str, Any] = {"dropout": 0.3, "personal": "pooling", "denoiser_layers": 1}
PLAIN: Mapping[str, Any] = {"tcd": "mean", "npd": "off", "reverse_weight": 0.0, "candidate_dropout": 0.0}
IDS_ONLY: Mapping[str, Any] = {"content": False, **PLAIN}
SLOW: Mapping[str, Any] = {"warmup_epochs": 150, "patience": 20}  # their first epochs look as if nothing came
NEURAL_SPACE: Space = {"lr": (5e-4, 1e-3, 2e-3), "dropout": (0.2, 0.3, 0.4, 0.5), "batch_size": (32, 64, 128)}


@dataclass(frozen=True)
class Row:
    """A model of the tables. settings: fixed hyper-parameters; space: values the tuner may choose from; is_baseline: may be
    the best baseline that MealRec is compared with; frames: what is done to the content's order before training (A7)."""

    name: str
    kind: Kind
    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)
    is_baseline: bool = True
    frames: Literal["ordered", "shuffled", "random", "middle", "other"] = "ordered"


# backbones beside SASRec (U1), and their layers
CROSSED: Mapping[str, int] = {"gru4rec": 1, "bert4rec": 2, "nextitnet": 2}


def _model(name: str, says: str, *, base: bool = True, frames: str = "ordered", **settings: Any) -> Row:
    return Row(name, "model", says, settings, NEURAL_SPACE, base, frames)  # type: ignore[arg-type]


def _variant(tag: str, says: str, *, frames: str = "ordered", **settings: Any) -> Row:
    return _model(f"mealrec:{tag}", says, base=False, frames=frames, **settings)


_ROWS = [
    Row("popularity", "counts", "most watched videos"),
    Row("markov", "counts", "first-order transitions, popularity behind them"),
    Row(
        "itemknn",
        "counts",
        "videos watched by the same viewers (Deshpande and Karypis 2004)",
        {"neighbours": 100, "shrink": 5.0, "decay": 0.6},
        {"neighbours": (50, 100, 300), "shrink": (0.0, 5.0, 20.0), "decay": (0.5, 0.6, 0.7, 0.9)},
    ),
    _model("sasrec", "IDs alone (Kang and McAuley 2018)", **IDS_ONLY),
    _model("sasrec:sampled-4096", "the same, 4,096 sampled candidates a step", base=False, negatives=4096, **IDS_ONLY),
    _model("gru4rec", "IDs alone (Hidasi et al. 2016)", backbone="gru4rec", layers=1, **IDS_ONLY),
    _model("bert4rec", "IDs alone (Sun et al. 2019)", backbone="bert4rec", **IDS_ONLY),
    _model("nextitnet", "IDs alone (Yuan et al. 2019)", backbone="nextitnet", **IDS_ONLY),
    _model("sasrec+content", "SASRec on IDs and mean-pooled content through an MLP: the rival of TCD", **PLAIN),
    # MealRec's own first stage and a part of it: ablations (A1 and A4 together), not baselines of the field
    _model("sasrec+backwards", "IDs, windows also read backwards", base=False, **{**IDS_ONLY, "reverse_weight": 0.5}),
    _model(
        "sasrec+content+backwards",
        "MealRec without TCD and NPD: content, backwards windows, candidates without IDs",
        base=False,
        tcd="mean",
        npd="off",
    ),
    _model(
        "sasrec+content+augment",
        "the same, trained on corrupted histories as well, no denoiser (A6)",
        tcd="mean",
        npd="augment",
    ),
    Row(
        "dreamrec",
        "trained",
        "one-level diffusion head after DreamRec and DiffuRec",
        {"dropout": 0.3, **SLOW},
        {**NEURAL_SPACE, "guidance": (0.0, 0.5, 1.0, 2.0)},
    ),
    Row(
        "diffrec",
        "trained",
        "DiffRec (Wang et al. 2023)",
        {},
        {"width": (128, 256, 512), "noise_scale": (1e-4, 1e-2, 1e-1), "dropout": (0.2, 0.5, 0.7), "lr": (5e-4, 1e-3)},
    ),
    Row(
        "t-diffrec",
        "trained",
        "T-DiffRec: newer items weigh more",
        {},
        {"width": (128, 256, 512), "w_min": (0.1, 0.3, 0.5), "dropout": (0.2, 0.5, 0.7), "lr": (5e-4, 1e-3)},
    ),
    Row(
        "l-diffrec",
        "trained",
        "L-DiffRec: diffusion on clustered latents",
        {},
        {"latent": (32, 64, 128), "clusters": (1, 2, 4), "dropout": (0.2, 0.5, 0.7), "lr": (5e-4, 1e-3)},
    ),
    Row(
        "ld4mrec",
        "trained",
        "LD4MRec: forward-free inference, modality preference (2023)",
        {},
        {"width": (128, 256, 512), "noise_scale": (1e-2, 1e-1, 1.0), "dropout": (0.2, 0.5, 0.7), "lr": (5e-4, 1e-3)},
    ),
    Row("dcrec", "trained", "DCRec: dual conditional diffusion (2024)", {"dropout": 0.3, **SLOW}, NEURAL_SPACE),
    _model("mealrec", "the whole model", base=False),
    _variant("no-tcd", "A1: mean of tokens", tcd="mean"),
    _variant("no-guidance", "A2: without temporal guidance", guidance=False),
    _variant("no-collaborative", "A3: without the collaborative condition", collaborative=False),
    _variant("no-npd", "A4: without preference denoising", npd="off"),
    _variant("told", "A5: the denoiser is told kind and level in training, nothing at test", npd="told"),
    _variant("state", "the denoiser behind the backbone, on the final state, as model.md 2.8 has it", npd="state"),
    _variant("augment", "A6: corruption without a denoiser", npd="augment"),
    _variant("shuffled", "A7: tokens in random order", frames="shuffled"),
    _variant("random-tokens", "A7: tokens replaced by noise", frames="random"),
    _variant("middle-token", "A7: the middle token alone", frames="middle"),
    _variant("other-video", "A7: tokens of another video", frames="other"),
    _variant("attention", "A8: the same network without noise and diffusion loss", tcd="attention"),
    _variant("s4", "A9: four refinement steps", refine_steps=4),
    _variant("from-noise", "A9: generated from pure noise in 32 steps", refine_from="noise", refine_steps=32),
    _variant("epsilon", "A9: the noise is predicted instead of the clean tokens", predict="noise"),
    *(
        row
        for backbone, layers in CROSSED.items()
        for row in (
            _model(f"{backbone}+content", "U1: plug-ins off", base=False, backbone=backbone, layers=layers, **PLAIN),
            _model(
                f"{backbone}+content+backwards",
                "U1: plug-ins off, windows also read backwards and candidates without IDs",
                base=False,
                backbone=backbone,
                layers=layers,
                tcd="mean",
                npd="off",
            ),
            _model(
                f"{backbone}+mealrec",
                "U1: the whole model on this backbone",
                base=False,
                backbone=backbone,
                layers=layers,
            ),
        )
    ),
]
OFF = ("", "+content", "+content+backwards")  # behind a backbone's name: the rows that its plug-ins are compared with
ROWS: dict[str, Row] = {row.name: row for row in _ROWS}


def row(name: str) -> Row:
    """The named row. Raises ValueError naming the valid ones."""
    if name not in ROWS:
        raise ValueError(f"unknown model {name!r}; valid: {', '.join(ROWS)}")
    return ROWS[name]
