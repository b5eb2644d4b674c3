"""The landing folder: raw event files and the catalogue, as a source leaves them and the stages find them.

<landing>/events/...          many files, also in folders: *.jsonl, *.csv, *.jsonl.gz, *.csv.gz, *.parquet (fields:
                              schema.EVENT_COLUMNS, or those that source.columns names); served-*.jsonl are the endpoint's
                              journal, always in our fields, with viewers' ids as the tables have them
<landing>/catalogue.jsonl     or .csv or .parquet: video_id, uri, title (uri and title may be null)
<landing>/videos/...          files that relative uris point to
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from stat import S_ISREG

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from mealrec.config import RunConfig, digest
from mealrec.lake import Lake
from mealrec.schema import CATALOGUE_COLUMNS
from mealrec.sources.identifiers import as_text, of_cells

EVENT_SUFFIXES = (".jsonl", ".csv", ".parquet", ".jsonl.gz", ".csv.gz")
SERVED = "served-"  # what the name of a file of the endpoint's journal begins with
DAY_FORMS = tuple(re.compile(rf"(?<!\d)((?:19|20)\d\d)({between})(\d\d)\2(\d\d)(?!\d)") for between in ("-", "[_/]?"))
CATALOGUE_SCHEMA = pa.schema([(name, pa.string()) for name in CATALOGUE_COLUMNS])


class SourceError(ValueError):
    """A source's files are missing or not what they should be; the message names the file and what was expected."""


@dataclass(frozen=True)
class Landing:
    """Raw inputs of one run below `root`; `through`: the last UTC day whose event files count, None for all."""

    root: Path
    through: str | None = None

    @property
    def events(self) -> Path:
        return self.root / "events"

    def event_files(self) -> list[Path]:
        """Event files sorted by name. Raises SourceError when the folder is absent or holds none (up to `through`)."""
        return list(self.named_files().values())

    def named_files(self) -> dict[str, Path]:
        """Event files by name, which is their path below events/, in the names' order; hidden ones and those that begin with
        an underscore are somebody's work in progress. Raises SourceError as `event_files` does."""
        found = {p.relative_to(self.events).as_posix(): p for p in self.events.rglob("*") if p.is_file()}
        files = {name: found[name] for name in sorted(found) if name.endswith(EVENT_SUFFIXES) and not _hidden(name)}
        if not files:
            raise SourceError(f"no event files: expected {self.events}/*.jsonl, .csv, .parquet (.jsonl.gz, .csv.gz)")
        if self.through is None:
            return files
        chosen = {name: path for name, path in files.items() if day_of(path, name) <= self.through}
        if not chosen:
            raise SourceError(f"no event file up to {self.through}: the first is {next(iter(files.values()))}")
        return chosen

    def event_days(self) -> list[str]:
        """The days in the event files' names, oldest first. Raises SourceError for a file whose name has none."""
        return sorted({day_of(path, name) for name, path in self.named_files().items()})

    def cut(self) -> str:
        """`through` where it leaves event files out, "" where the files are all there are. Raises SourceError as `event_days`
        does."""
        if self.through is None or replace(self, through=None).event_days()[-1] <= self.through:
            return ""
        return self.through

    def catalogue_file(self) -> Path:
        """The catalogue. Raises SourceError when none of the known names is there."""
        names = [f"catalogue.{suffix}" for suffix in ("jsonl", "csv", "parquet")]
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        raise SourceError(f"no catalogue in {self.root}: expected one of {', '.join(names)}")

    def catalogue(self) -> pa.Table:
        """video_id, uri, title as strings, sorted by video_id. Raises SourceError naming the column or ids at fault."""
        path = self.catalogue_file()
        try:
            table = _read(path)
        except pa.ArrowInvalid as error:
            raise SourceError(f"{path}: {error}") from None
        if "video_id" not in table.column_names:
            raise SourceError(f"{path}: no column video_id; found {', '.join(table.column_names)}")
        columns = [
            as_text(table[name]) if name in table.column_names else pa.nulls(table.num_rows, pa.string())
            for name in CATALOGUE_COLUMNS
        ]
        table = pa.table(columns, schema=CATALOGUE_SCHEMA).sort_by("video_id")
        ids = table["video_id"].to_pylist()
        if any(not i for i in ids):
            raise SourceError(f"{path}: {sum(not i for i in ids)} rows without a video_id")
        repeated = [i for i, n in Counter(ids).items() if n > 1]
        if repeated:
            raise SourceError(f"{path}: video_id must be unique; repeated: {', '.join(repeated[:5])}")
        return table

    def resolve(self, uri: str) -> str:
        """A catalogue uri as a local path (relative ones are below root) or, with another scheme, as it came."""
        if uri.startswith("file://"):
            return uri.removeprefix("file://")
        return uri if "://" in uri else str(self.root / uri)

    def events_fingerprint(self) -> str:
        """Digest of the event files' names, sizes and change times: what the sessionize stage was given."""
        return digest([[name, p.stat().st_size, p.stat().st_mtime_ns] for name, p in self.named_files().items()])

    def catalogue_fingerprint(self) -> str:
        """Digest of the catalogue and of the size and change time of every local video it points to."""
        return digest([[row, self.stat(row["uri"])] for row in self.catalogue().to_pylist()])

    def stat(self, uri: str | None) -> list[int] | None:
        """Size and change time (ns) of the local file that a catalogue uri names; None where there is none to read, or where
        a relative one leaves root."""
        if not uri or ("://" in uri and not uri.startswith("file://")):
            return None
        try:
            path = Path(self.resolve(uri))
            if not uri.startswith(("/", "file://")) and not path.resolve().is_relative_to(self.root.resolve()):
                return None
            found = path.stat()
        except (OSError, ValueError, RuntimeError):
            # absent, not ours to read, a name too long or with a null byte, links in a circle: extract says which
            return None
        return [found.st_size, found.st_mtime_ns] if S_ISREG(found.st_mode) else None


def locate(config: RunConfig) -> Landing:
    """Where this run's raw inputs lie: the user's own folder, or the one a simulated or public source is read into."""
    if config.source.kind == "landing":
        return Landing(Path(config.source.directory or "./landing").absolute(), config.source.through)
    return Landing(Lake(config.lake, config.work).folder("landing"), config.source.through)


def day_of(file: Path, name: str) -> str:
    """YYYY-MM-DD of the day in an event file's name, or in its folder's."""
    day = day_in(name)
    if day is None:
        raise SourceError(
            f"{file}: its name has no day (YYYY-MM-DD, YYYYMMDD), so it can't be taken or left by its day"
        )
    return day


def day_in(name: str) -> str | None:
    """The last calendar day in a name, as YYYY-MM-DD; None where there is none. One that is written so goes before one that
    is YYYYMMDD, YYYY_MM_DD or YYYY/MM/DD: a number may look like these by chance."""
    for form in DAY_FORMS:
        for year, _, month, day in reversed(form.findall(name)):
            with suppress(ValueError):
                return date(int(year), int(month), int(day)).isoformat()
    return None


def is_served(name: str) -> bool:
    """Whether an event file is of the endpoint's journal, by its name below events/."""
    return name.rpartition("/")[2].startswith(SERVED)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    if path.suffix == ".csv":
        options = pacsv.ConvertOptions(
            column_types=CATALOGUE_SCHEMA, strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=True
        )
        table = pacsv.read_csv(path, parse_options=pacsv.ParseOptions(newlines_in_values=True), convert_options=options)
        at = table.schema.get_field_index("video_id")
        return table if at < 0 else table.set_column(at, "video_id", of_cells(table["video_id"]))
    return pajson.read_json(path, parse_options=pajson.ParseOptions(explicit_schema=CATALOGUE_SCHEMA))
