"""What every log record of ours carries and leaves out: stage, run and attempt are added, secrets are blotted out.

`install` is called once in every process that works for us (command line, flow run). With a target it also writes one JSON
object a line: time, level, logger, stage, run_id, attempt, message, and error where there is a traceback.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mealrec.redaction import redact

VARIABLE = "MEALREC_LOG_JSON"
STDERR = "-"
LOGGER = "mealrec"
_NOWHERE: dict[str, Any] = {"stage": "", "run_id": "", "attempt": 1}
_WHERE: ContextVar[dict[str, Any]] = ContextVar("mealrec_where", default=_NOWHERE)


@contextmanager
def inside(stage: str, *, run_id: str = "", attempt: int = 1) -> Iterator[None]:
    """Records made in here, by this thread and tasks, say so."""
    token = _WHERE.set({"stage": stage, "run_id": run_id, "attempt": attempt})
    try:
        yield
    finally:
        _WHERE.reset(token)


class JsonLines(logging.Formatter):
    """One JSON object a record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        where = getattr(record, "where", _NOWHERE)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            **where,
            "message": record.getMessage(),
        }
        if record.exc_info or record.exc_text:
            line["error"] = redact(record.exc_text or self.formatException(record.exc_info))  # type: ignore[arg-type]
        return json.dumps(line, ensure_ascii=False)


class Record(logging.LogRecord):
    """A record that knows where it was made and is free of secrets before any handler sees it, Prefect's included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.where = _WHERE.get()
        self.msg, self.args = redact(self.getMessage()), ()
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = redact(logging.Formatter().formatException(self.exc_info))


def install(target: str | None = None) -> None:
    """Make all records of this process ours; `target`: a file for JSON lines (appended), "-" for stderr, None: where the
    variable MEALREC_LOG_JSON says. May be called again: a target is opened once.

    Raises ValueError when the file can't be written."""
    logging.setLogRecordFactory(Record)
    target = target or os.environ.get(VARIABLE)
    if not target:
        return
    os.environ[VARIABLE] = target  # processes that we start write there as well
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(handler.formatter, JsonLines) for handler in logger.handlers):
        handler = _handler(target)
        handler.setFormatter(JsonLines())
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _handler(target: str) -> logging.Handler:
    if target == STDERR:
        return logging.StreamHandler(sys.stderr)
    try:
        Path(target).absolute().parent.mkdir(parents=True, exist_ok=True)
        return logging.FileHandler(target, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--log-json {target}: {error.strerror}") from None
