"""The catalogue file to its videos: JSONL, CSV or Parquet. A row that is none costs itself alone, and is told by its line.

A number may be an identifier, a field that nobody asked for is left out, as in events (spark_jobs.records). Arrow reads a file
whose rows are all good; any other is read again row by row, which takes some four times as long. Memory: the catalogue.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from mealrec.config_tables import CatalogueField
from mealrec.schema import CATALOGUE_COLUMNS, CATALOGUE_REASONS
from mealrec.sources.catalogue_rows import MAX_FIELD, MAX_LINE, Names, Row, known_columns, rows_of
from mealrec.sources.errors import SourceError
from mealrec.sources.identifiers import as_text, of_cells

MAX_PAYLOAD = 2**20  # characters
SCHEMA = pa.schema([(name, pa.string()) for name in CATALOGUE_COLUMNS])

Texts = dict[str, str | None]


class BadRow(NamedTuple):
    """A row of the catalogue that names no video. line: 1-based (Parquet: row); reason: one of schema.CATALOGUE_REASONS;
    payload: as it came (Parquet: as JSON), cut at MAX_PAYLOAD."""

    line: int
    reason: str
    detail: str
    payload: str
    video_id: str | None


class Catalogue(NamedTuple):
    """video_id, uri, title as strings, sorted by video_id, each once; and the other rows, in the file's order."""

    videos: pa.Table
    bad: list[BadRow]


def read_catalogue(path: Path, names: Mapping[CatalogueField, str] | None = None) -> Catalogue:
    """names: the file's own of our fields, where they are others. Raises SourceError for a file that can't be read, has no
    column of ids, or names no video."""
    theirs = {name: name for name in CATALOGUE_COLUMNS} | {str(ours): name for ours, name in (names or {}).items()}
    try:
        whole = _whole(path, theirs)
        videos, bad = (whole, []) if whole is not None else _sifted(path, theirs)
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:  # a damaged Parquet file may be either
        raise SourceError(f"{path}: {error}") from None
    return Catalogue(videos.sort_by("video_id"), bad)


def _whole(path: Path, theirs: Names) -> pa.Table | None:
    """All rows in the file's order, by Arrow's own readers; None where it takes exception to one, or one is not good."""
    try:
        table = {".parquet": _parquet, ".csv": _csv}.get(path.suffix, _jsonl)(path, theirs)
        table.validate(full=True)  # readers of Parquet and JSON trust the writer that text is UTF-8
    except pa.ArrowException:
        return None
    if not table.num_rows:
        return None
    ids, longest = table["video_id"], [pc.max(pc.binary_length(column)).as_py() or 0 for column in table.columns]
    is_blank = ids.null_count > 0 or pc.any(pc.equal(pc.utf8_trim_whitespace(ids), "")).as_py()
    if is_blank or max(longest) > MAX_FIELD or pc.count_distinct(ids).as_py() < len(ids):
        return None
    return table


def _parquet(path: Path, theirs: Names) -> pa.Table:
    with pq.ParquetFile(path) as file:
        known = known_columns(path, theirs, file.schema_arrow.names)
        return _ours(file.read(columns=list(known.values())), known)


def _ours(table: pa.Table, known: Names) -> pa.Table:
    nothing = pa.nulls(table.num_rows, pa.string())
    return pa.table([as_text(table[known[n]]) if n in known else nothing for n in CATALOGUE_COLUMNS], schema=SCHEMA)


def _csv(path: Path, theirs: Names) -> pa.Table:
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(theirs.values(), pa.string()),
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=True,
    )
    blocks, parse = pacsv.ReadOptions(block_size=MAX_LINE), pacsv.ParseOptions(newlines_in_values=True)
    table = pacsv.read_csv(path, read_options=blocks, parse_options=parse, convert_options=convert)
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    if any(pc.any(pc.match_substring(column, "\n")).as_py() for column in texts):
        raise pa.ArrowInvalid("a field of several lines: a stray quote may have made it of other rows")
    known = _ours(table, known_columns(path, theirs, table.column_names))
    return known.set_column(0, "video_id", of_cells(known["video_id"]))


def _jsonl(path: Path, theirs: Names) -> pa.Table:
    schema = pa.schema(dict.fromkeys(theirs.values(), pa.string()))
    parse = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return _ours(
        pajson.read_json(path, read_options=pajson.ReadOptions(block_size=MAX_LINE), parse_options=parse), theirs
    )


def _sifted(path: Path, theirs: Names) -> tuple[pa.Table, list[BadRow]]:
    """The good rows and the others. Raises SourceError where no row is good."""
    good: dict[str, Texts] = {}
    bad: list[BadRow] = []
    for row in rows_of(path, theirs):
        texts = {name: _text(row.cells.get(name)) for name in CATALOGUE_COLUMNS}
        video, verdict = texts["video_id"], _verdict(row, texts, good)
        if verdict is None:
            assert video is not None
            good[video] = texts
        else:
            reason, detail = verdict
            assert reason in CATALOGUE_REASONS
            bad.append(BadRow(row.line, reason, detail, row.payload[:MAX_PAYLOAD], video))
    if not good:
        first = f"line {bad[0].line}: {bad[0].reason}: {bad[0].detail}" if bad else "it has no rows"
        raise SourceError(f"{path} names no video; {first}")
    return pa.Table.from_pylist(list(good.values()), schema=SCHEMA), bad


def _verdict(row: Row, texts: Texts, known: Container[str]) -> tuple[str, str] | None:
    """Reason and detail of what is not good, in the order of CATALOGUE_REASONS."""
    if row.wrong:
        return "oversize_field" if row.wrong.startswith("oversize") else "unparseable", row.wrong
    if long := [name for name, text in texts.items() if text is not None and len(text.encode()) > MAX_FIELD]:
        return "oversize_field", f"longer than {MAX_FIELD} bytes: {', '.join(long)}"
    video, odd = (
        texts["video_id"],
        [name for name, text in texts.items() if text is None and row.cells.get(name) is not None],
    )
    if "video_id" not in odd and not (video or "").strip():
        return "missing_key", "absent or empty: video_id"
    if odd:
        return "bad_type", f"not text: {', '.join(odd)}"
    return ("duplicate_video", f"an earlier row names {video}") if video in known else None


def _text(value: object) -> str | None:
    """None for what is no text; lone surrogates become question marks."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
