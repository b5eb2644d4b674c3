"""Tables and plots of result files; nothing here computes a metric anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mealrec.bench.conditions import POORER, SHARES, STRANGERS, TRAINED_ON
from mealrec.bench.results import Cell, Results, ResultsError
from mealrec.bench.rows import CROSSED, OFF, ROWS

SYSTEM = "mealrec"
NEVER_SEEN = "target never seen in training"
HEAD = (
    "| model | HR@10 | NDCG@10 | MRR@10 | valid NDCG@10 | HR@10, target never seen | coverage | seeds | s a run "
    "| NDCG@10 of mealrec minus this |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


def tables(results: Sequence[Results]) -> dict[str, str]:
    """Markdown by marker name: quality-DATASET (baselines and the model), ablation-DATASET, backbones-DATASET,
    robustness-DATASET, content-DATASET and noisy-DATASET, each where there are cells for it. Raises ResultsError for a
    dataset that is in two files, or whose cells are of several protocols or of other data."""
    out: dict[str, str] = {}
    for result in results:
        result.check_alike()
        for dataset in result.datasets():
            models = [name for name in ROWS if name in result.models(dataset)]
            variants = [m for m in models if m.startswith(f"{SYSTEM}:")]
            crossed = [m for m in models if m.split("+")[0] in CROSSED and "+" in m]
            main = [m for m in models if m not in variants and m not in crossed]
            floor = [fmean(_test(c, "ndcg@10")) for c in [result.select(dataset, "popularity")] if c]
            if f"quality-{dataset}" in out:
                raise ResultsError(
                    f"{dataset} is in more than one result file: {result.path} would hide another's tables"
                )
            if main:
                out[f"quality-{dataset}"] = _quality(result, dataset, main, floor)
            if variants:
                full = [SYSTEM] if SYSTEM in models else []
                out[f"ablation-{dataset}"] = _quality(result, dataset, [*full, *variants], floor)
            if crossed:
                out[f"backbones-{dataset}"] = _backbones(result, dataset, crossed)
            robust = [m for m in models if m not in crossed and result.select(dataset, m, f"replace={SHARES[0]}")]
            if robust:
                out[f"robustness-{dataset}"] = _robustness(result, dataset, robust)
            poor = [m for m in robust if result.select(dataset, m, "{}={}".format(*POORER[0]))]
            if poor:
                out[f"content-{dataset}"] = _poorer_content(result, dataset, poor)
            noises = sorted({c.variant for c in result.cells.values() if c.dataset == dataset and _is_noisy(c)})
            if noises:
                out[f"noisy-{dataset}"] = _noisy_training(result, dataset, models, noises)
    return out


def update(text: str, made: dict[str, str], where: str) -> str:
    """`text` with each table between its markers <!-- bench:NAME --> and <!-- /bench:NAME -->; tables without markers are left
    out. Raises ResultsError for a marker that no table fills or that is not closed."""
    for name in re.findall(r"<!-- bench:(\S+) -->", text):
        if name not in made:
            raise ResultsError(f"{where}: no result file fills the marker bench:{name}; there are {', '.join(made)}")
        begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
        if text.count(end) != 1 or text.index(end) < text.index(begin):
            raise ResultsError(f"{where}: the marker bench:{name} is not closed by one {end}")
        head, rest = text.split(begin, 1)
        text = f"{head}{begin}\n{made[name]}\n{end}{rest.split(end, 1)[1]}"
    return text


def _quality(result: Results, dataset: str, models: Sequence[str], floor: Sequence[float]) -> str:
    """floor: popularity's NDCG@10, empty where it is not measured."""
    best = max(models, key=lambda m: fmean(_test(result.select(dataset, m), "ndcg@10")))
    lines = [HEAD]
    for model in models:
        cells = result.select(dataset, model)
        against = _compared(result, "difference", dataset, against=model, metric="ndcg@10")
        note = ""
        if floor and model != "popularity" and fmean(_test(cells, "ndcg@10")) <= floor[0]:
            note = " (implemented, not competitive)"
        name = f"**{model}**" if model == best else model
        is_best_baseline = bool(against) and against[0]["best_baseline"]
        valid = _spread([c.metrics["valid"]["ndcg@10"] for c in cells])
        never = [c.slices[NEVER_SEEN]["hr@10"] for c in cells if NEVER_SEEN in c.slices]
        columns = [
            f"{name}{' †' if is_best_baseline else ''}{note}",
            *(_spread(_test(cells, metric)) for metric in ("hr@10", "ndcg@10", "mrr@10")),
            valid,
            _spread(never) if never else "",
            f"{fmean([c.beyond['coverage'] for c in cells]):.2f}",
            str(len(cells)),
            f"{fmean([c.seconds for c in cells]):.0f}",
            _interval(against[0]) if against else "",
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def _backbones(result: Results, dataset: str, models: Sequence[str]) -> str:
    lines = [
        "| off | HR@10 off | HR@10 on | NDCG@10 off | NDCG@10 on | NDCG@10 on minus off | on keeps more at 30 % replaced by |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for backbone in ("sasrec", *dict.fromkeys(m.split("+")[0] for m in models)):
        on = SYSTEM if backbone == "sasrec" else f"{backbone}+mealrec"
        for off in (f"{backbone}{parts}" for parts in OFF):
            both = [result.select(dataset, off), result.select(dataset, on)]
            if all(both):
                found = _compared(result, "backbone", dataset, backbone=backbone, against=off)
                found = found or _compared(result, "difference", dataset, model=on, against=off, metric="ndcg@10")
                figures = [_spread(_test(cells, metric)) for metric in ("hr@10", "ndcg@10") for cells in both]
                kept = _compared(result, "backbone kept", dataset, backbone=backbone, against=off, variant=STRANGERS)
                if on == SYSTEM:
                    own = _compared(result, "retention", dataset, model=off, variant=STRANGERS)
                    kept = [c["system_keeps_more"] for c in own if c["system_keeps_more"]]
                more = _range(kept[0], "+.3f") if kept else ""
                lines.append("| " + " | ".join([off, *figures, _interval(found[0]) if found else "", more]) + " |")
    return "\n".join(lines)


def _robustness(result: Results, dataset: str, models: Sequence[str]) -> str:
    shares = [f"replace={share}" for share in SHARES]
    lines = [
        "| model | clean | " + " | ".join(f"{share:.0%} replaced" for share in SHARES) + " | 30 % dropped "
        "| 30 % inserted | kept at 30 % replaced | mealrec keeps more by |",
        "|---|" + "---:|" * (len(SHARES) + 3) + "---|---|",
    ]
    for model in models:
        cells = [result.select(dataset, model), *(result.select(dataset, model, v) for v in shares)]
        cells += [result.select(dataset, model, v) for v in ("drop=0.3", "insert=0.3")]
        found = _compared(result, "retention", dataset, model=model, variant="replace=0.3")
        kept = _range(found[0], ".3f") if found else ""
        more = _range(found[0]["system_keeps_more"], "+.3f") if found and found[0]["system_keeps_more"] else ""
        figures = [f"{fmean(_test(c, 'hr@10')):.4f}" if c else "" for c in cells]
        lines.append("| " + " | ".join([model, *figures, kept, more]) + " |")
    return "\n".join(lines)


def _poorer_content(result: Results, dataset: str, models: Sequence[str]) -> str:
    """HR@10 with content disturbed at test time (R2)."""
    said = {
        "noise": "noise of size {:g} on tokens",
        "tokens": "{:.0%} of tokens lost",
        "video": "{:.0%} of videos without tokens",
        "title": "{:.0%} of videos without title",
    }
    heads = [said[kind].format(level) for kind, level in POORER]
    lines = [f"| model | clean | {' | '.join(heads)} |", "|---|" + "---:|" * (len(POORER) + 1)]
    for model in models:
        cells = [result.select(dataset, model), *(result.select(dataset, model, f"{k}={v}") for k, v in POORER)]
        figures = [f"{fmean(_test(c, 'hr@10')):.4f}" if c else "" for c in cells]
        lines.append("| " + " | ".join([model, *figures]) + " |")
    return "\n".join(lines)


def _is_noisy(cell: Cell) -> bool:
    """Whether it was trained on interactions of which a share was replaced."""
    return cell.variant.startswith(TRAINED_ON)


def _noisy_training(result: Results, dataset: str, models: Sequence[str], noises: Sequence[str]) -> str:
    """HR@10 after training on interactions of which a share was replaced (R3)."""
    lines = [
        "| model | replaced in training | HR@10, trained as it was | HR@10 | NDCG@10 | seeds | kept | mealrec keeps more by |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for model in models:
        for noise in noises:
            cells = result.select(dataset, model, noise)
            if not cells:
                continue
            clean = [c for c in result.select(dataset, model) if c.seed in {n.seed for n in cells}]
            found = _compared(result, "retention", dataset, model=model, variant=noise)
            more = found[0]["system_keeps_more"] if found else None
            columns = [
                model,
                f"{float(noise.removeprefix(TRAINED_ON)):.0%}",
                _spread(_test(clean, "hr@10")) if clean else "",
                *(_spread(_test(cells, metric)) for metric in ("hr@10", "ndcg@10")),
                str(len(cells)),
                _range(found[0], ".3f") if found else "",
                _range(more, "+.3f") if more else "",
            ]
            lines.append("| " + " | ".join(columns) + " |")
    return "\n".join(lines)


def _compared(result: Results, kind: str, dataset: str, **names: str) -> list[dict[str, Any]]:
    """Stored comparisons of a kind with these fields."""
    wanted = {"kind": kind, "dataset": dataset, **names}
    return [c for c in result.body["comparisons"] if wanted.items() <= c.items()]


def _range(found: dict[str, Any], form: str) -> str:
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def _test(cells: Sequence[Cell], metric: str) -> list[float]:
    return [c.metrics["test"][metric] for c in cells]


def _spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{fmean(values):.4f}".replace("0.", ".", 1)
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.4f}".replace("± 0.", "± .")


def _interval(found: dict[str, Any]) -> str:
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] ({found['relative']:+.1%})"


def write_plots(results: Sequence[Results], folder: Path) -> list[Path]:
    """SVGs of each dataset: robustness-DATASET where there are such cells, and quality-DATASET."""
    from mealrec.bench import plots

    made = []
    for result in results:
        for dataset in result.datasets():
            made.append(plots.robustness(result, dataset, folder / f"robustness-{dataset}.svg"))
            made.append(plots.bars(result, dataset, folder / f"quality-{dataset}.svg"))
    return [path for path in made if path is not None]
