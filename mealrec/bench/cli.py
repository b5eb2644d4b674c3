"""`mealrec bench ...`: result tables, tuning and reports. Imports are made where they are needed, so that `--help` is quick."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mealrec.bench.rows import ROWS
from mealrec.data.split import Protocol

bench = typer.Typer(
    help="Evidence: train and rank every model on any dataset folder, with seeds and intervals.\n\n"
    "A folder may be in NineRec's, MicroLens' or RecBole's layout, or packed before.",
    no_args_is_help=True,
)
MODELS = ", ".join(ROWS)
CORES = os.cpu_count() or 1
MAIN = "popularity,markov,itemknn,sasrec,sasrec+content,sasrec+content+augment,mealrec"

Data = Annotated[
    Path, typer.Option("--data", envvar="MEALREC_DATA", help="Folder that holds the dataset folders (or one itself).")
]
Datasets = Annotated[str, typer.Option("--datasets", help="Names of folders under --data, comma separated.")]
Cache = Annotated[Path, typer.Option("--cache", help="Where packed datasets and shared warm-ups are kept.")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Cells at a time, one torch thread each.")]


@bench.command("quality")
def quality(
    data: Data,
    datasets: Datasets,
    out: Annotated[Path, typer.Option("--out", help="Result file; what it holds already is not made again.")],
    models: Annotated[str, typer.Option("--models", help=f"Comma separated, or `all`. Valid: {MODELS}.")] = MAIN,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0..K-1 for every trained model.")] = 5,
    cache: Cache = Path("var/bench"),
    jobs: Jobs = CORES,
    protocol: Annotated[
        str, typer.Option("--protocol", help="leave-one-out | temporal (sets with times).")
    ] = "leave-one-out",
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda: one cell at a time on the GPU.")] = "cpu",
    noise: Annotated[
        float,
        typer.Option("--train-noise", min=0.0, max=0.9, help="Share of the training interactions to replace (R3)."),
    ] = 0.0,
) -> None:
    """Train and rank every (dataset, model, seed) that FILE does not hold yet, then compare mealrec with every row.

    Leave-one-out (or one global time), full ranking, history masked, ties by item index. Kill it and run it again: it goes on
    with the cells that are missing. `mealrec bench report FILE` makes tables and plots of the result."""
    from mealrec.bench.compare import compare_all
    from mealrec.bench.quality import run_quality

    chosen = list(ROWS) if models == "all" else _names(models)
    results = run_quality(
        [data / name if (data / name).is_dir() else data for name in _names(datasets)],
        chosen,
        seeds=range(seeds),
        out=out,
        cache=cache,
        protocol=_protocol(protocol),
        jobs=1 if device != "cpu" else jobs,
        device=device,
        noise=noise,
        command=_command(),
        say=_say,
    )
    results.set_comparisons(compare_all(results, [n for n in ROWS if ROWS[n].is_baseline]))
    _say(f"written {out}")


@bench.command("merge")
def merge(
    into: Annotated[Path, typer.Argument(help="Result file that takes the cells; made where there is none.")],
    files: Annotated[list[Path], typer.Argument(help="Result files of `bench quality`, their ranks beside them.")],
) -> None:
    """Put the cells of other result files, made on other days or machines, into one, then compare all of it again.

    A cell that both hold is replaced by the later file's. Cells whose ranks are missing are left out and named."""
    from mealrec.bench.compare import compare_all
    from mealrec.bench.results import Results

    results = Results.open(into)
    for path in files:
        if not path.is_file():
            raise ValueError(f"{path}: no such result file")
        other = Results.open(path)
        without = results.absorb(other)
        _say(f"{path}: {len(other.cells) - len(without)} cells taken")
        for key in without:
            _say(f"{path}: left out, no ranks: {' '.join(str(part) for part in key)}")
    results.set_comparisons(compare_all(results, [n for n in ROWS if ROWS[n].is_baseline]))
    _say(f"written {into}")


@bench.command("tune")
def tune(
    data: Data,
    datasets: Datasets,
    out: Annotated[Path, typer.Option("--out", help="Trials by dataset and model; those there are not made again.")],
    models: Annotated[str, typer.Option("--models", help=f"Comma separated. Valid: {MODELS}.")] = MAIN,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Budget: trials a model, the same for all.")] = 10,
    cache: Cache = Path("var/bench"),
    jobs: Jobs = CORES,
) -> None:
    """Search each model's settings with Optuna (TPE), the same number of trials for every model, on validation NDCG@10 alone.

    The best settings are printed and go into mealrec/bench/chosen.json with --out's content as their record."""
    from mealrec.bench.tune import run_tuning

    folders = [data / name if (data / name).is_dir() else data for name in _names(datasets)]
    run_tuning(folders, _names(models), trials=trials, out=out, cache=cache, jobs=jobs, say=_say)


@bench.command("truth")
def truth(
    out: Annotated[Path, typer.Option("--out", help="Figures by variant and seed; those there are not made again.")],
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0..K-1.")] = 3,
) -> None:
    """Does TCD find what is known to matter? A made-up catalogue with known salient frames, order and duplicates.

    Half of the viewers go by the order of two marks: without temporal guidance their videos can't be told apart."""
    from mealrec.bench.truth_run import run_truth

    sys.stdout.write(run_truth(out, seeds=range(seeds), say=_say) + "\n")


@bench.command("report")
def report(
    files: Annotated[list[Path], typer.Argument(help="Result files of `bench quality`.")],
    truth_file: Annotated[
        Path | None, typer.Option("--truth", help="Figures of `bench truth`, for the marker truth.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option("--readme", help="Replace the tables between its bench markers.")
    ] = None,
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder for the plots (SVG).")] = None,
) -> None:
    """Tables in Markdown, on stdout or into a README, and plots; every figure comes from the result files."""
    from mealrec.bench.report import tables, update, write_plots
    from mealrec.bench.results import Results
    from mealrec.bench.truth_run import table as truth_table

    opened = [Results.open(path) for path in files]
    made = tables(opened)
    if truth_file is not None:
        made["truth"] = truth_table(json.loads(truth_file.read_text()))
    if readme is not None:
        readme.write_text(update(readme.read_text(encoding="utf-8"), made, str(readme)), encoding="utf-8")
        _say(f"{len(made)} tables into {readme}")
    else:
        sys.stdout.write("\n\n".join(f"### {name}\n\n{table}" for name, table in made.items()) + "\n")
    if plots is not None:
        for path in write_plots(opened, plots):
            _say(f"written {path}")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"nothing named in {text!r}")
    return names


def _protocol(text: str) -> Protocol:
    if text not in ("leave-one-out", "temporal"):
        raise ValueError(f"--protocol {text!r}; valid: leave-one-out, temporal")
    return "temporal" if text == "temporal" else "leave-one-out"


def _command() -> str:
    """How this result can be made again, without anybody's folders."""
    words = ["mealrec", *sys.argv[1:]]
    hidden = {"--data": "DIR", "--cache": "DIR"}
    return " ".join(hidden.get(words[i - 1], word) if i else word for i, word in enumerate(words))


def _say(line: str) -> None:
    typer.echo(line, err=True)
