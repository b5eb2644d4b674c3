"""`mealrec ingest`: public data sets into landing files and a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mealrec import logs
from mealrec.config import RunConfig, SessionizeConfig, SourceConfig
from mealrec.config_tables import SourceKind
from mealrec.options import AsJson

ingest = typer.Typer(help="Read a public data set into landing files and a catalogue.", no_args_is_help=True)


@ingest.command("ninerec")
def ingest_ninerec(
    directory: Annotated[Path, typer.Argument(help="Folder with sequential_data.txt and *_item.csv.")],
    lake: Annotated[str, typer.Option("--lake", help="Root of the tables; landing files go to <lake>/_work/landing.")],
    as_json: AsJson = False,
) -> None:
    """NineRec: sequential_data.txt (user item item ...) and *_item.csv (id, Chinese title, English title)."""
    _ingest("ninerec", directory, lake, as_json)


@ingest.command("microlens")
def ingest_microlens(
    directory: Annotated[Path, typer.Argument(help="Folder with *_pairs.tsv or *_pairs.csv and *_titles.csv.")],
    lake: Annotated[str, typer.Option("--lake", help="Root of the tables; landing files go to <lake>/_work/landing.")],
    as_json: AsJson = False,
) -> None:
    """MicroLens: *_pairs.csv (user,item,timestamp) or *_pairs.tsv (sequences), and *_titles.csv (item,title)."""
    _ingest("microlens", directory, lake, as_json)


@ingest.command("recbole")
def ingest_recbole(
    directory: Annotated[Path, typer.Argument(help="Folder with NAME.inter, and NAME.item for titles.")],
    lake: Annotated[str, typer.Option("--lake", help="Root of the tables; landing files go to <lake>/_work/landing.")],
    as_json: AsJson = False,
) -> None:
    """RecBole's atomic files: NAME.inter, and NAME.item for titles."""
    _ingest("recbole", directory, lake, as_json)


@ingest.command("kuairec")
def ingest_kuairec(
    directory: Annotated[Path, typer.Argument(help="Folder (or its parent) with big_matrix.csv or small_matrix.csv.")],
    lake: Annotated[str, typer.Option("--lake", help="Root of the tables; landing files go to <lake>/_work/landing.")],
    as_json: AsJson = False,
) -> None:
    """KuaiRec: big_matrix.csv, else small_matrix.csv, and kuairec_caption_category.csv for titles."""
    _ingest("kuairec", directory, lake, as_json)


@ingest.command("kuairand")
def ingest_kuairand(
    directory: Annotated[
        Path, typer.Argument(help="Folder (or its parent) with log_standard_*.csv, log_random_*.csv.")
    ],
    lake: Annotated[str, typer.Option("--lake", help="Root of the tables; landing files go to <lake>/_work/landing.")],
    as_json: AsJson = False,
) -> None:
    """KuaiRand: all of its log_*.csv; likes, comments and forwards become events of their own."""
    _ingest("kuairand", directory, lake, as_json)


def _ingest(kind: SourceKind, directory: Path, lake: str, as_json: bool) -> None:
    from mealrec.console import print_stages, show_progress
    from mealrec.stages import ingest as stage

    show_progress()
    config = RunConfig(
        lake=lake,
        source=SourceConfig(kind=kind, directory=str(directory)),
        # which times are believed is for the run that follows to say
        sessionize=SessionizeConfig(earliest="0001-01-01"),
    )
    with logs.inside("ingest"):
        done = stage.ingest(config)
    print_stages({"ingest": done.model_dump(exclude={"stage"})}, as_json=as_json)
