"""The landing folder: raw event files and the catalogue, as a source leaves them and the stages find them.

<landing>/events/...          many files, also in folders: *.jsonl, *.csv, *.jsonl.gz, *.csv.gz, *.parquet (fields:
                              schema.EVENT_COLUMNS, or those that source.columns names); served-*.jsonl are the endpoint's
                              journal, always in our fields, with viewers' ids as the tables have them
<landing>/catalogue.jsonl     or .csv or .parquet: video_id, uri, title (uri and title may be null), or what source.catalogue
                              names
<landing>/videos/...          files that relative uris point to
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from stat import S_ISREG
from urllib.parse import unquote

import pyarrow as pa

from mealrec.config import RunConfig, digest
from mealrec.config_tables import CatalogueField
from mealrec.lake import Lake
from mealrec.sources.catalogue import Catalogue, read_catalogue
from mealrec.sources.errors import SourceError as SourceError

EVENT_SUFFIXES = (".jsonl", ".csv", ".parquet", ".jsonl.gz", ".csv.gz")
SERVED = "served-"  # what the name of a file of the endpoint's journal begins with
DAY_FORMS = tuple(re.compile(rf"(?<!\d)((?:19|20)\d\d)({between})(\d\d)\2(\d\d)(?!\d)") for between in ("-", "[_/]?"))


@dataclass(frozen=True)
class Landing:
    """Raw inputs of one run below `root`; `through`: the last UTC day whose event files count, None for all; `names`: the
    catalogue's own of our fields, where they are others; `listed_in`: the catalogue, where it is not below root."""

    root: Path
    through: str | None = None
    names: Mapping[CatalogueField, str] = field(default_factory=dict)
    listed_in: Path | None = None

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
        if self.listed_in is not None:
            return self.listed_in
        names = [f"catalogue.{suffix}" for suffix in ("jsonl", "csv", "parquet")]
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        raise SourceError(f"no catalogue in {self.root}: expected one of {', '.join(names)}")

    def catalogue(self) -> pa.Table:
        """video_id, uri, title as strings, sorted by video_id. Raises SourceError as `sifted_catalogue` does."""
        return self.sifted_catalogue().videos

    def sifted_catalogue(self) -> Catalogue:
        """Its videos, and the rows that name none. Raises SourceError where it can't be read or names no video at all."""
        return read_catalogue(self.catalogue_file(), self.names)

    def resolve(self, uri: str) -> str:
        """A catalogue uri as a local path (relative ones are below root) or, with another scheme, as it came."""
        if uri.startswith("file://"):
            return unquote(uri.removeprefix("file://"))
        return uri if "://" in uri else str(self.root / uri)

    def events_fingerprint(self) -> str:
        """Digest of the event files' names, sizes and change times: what the sessionize stage was given."""
        return digest([[name, p.stat().st_size, p.stat().st_mtime_ns] for name, p in self.named_files().items()])

    def catalogue_fingerprint(self) -> str:
        """Digest of the catalogue, bad rows too, and of the size and change time of every local video it points to."""
        found = self.sifted_catalogue()
        return digest([[row, self.stat(row["uri"])] for row in found.videos.to_pylist()] + [list(r) for r in found.bad])

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
        root = Path(config.source.directory or "./landing").absolute()
        return Landing(root, config.source.through, config.source.catalogue)
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
