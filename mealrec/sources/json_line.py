"""A line of JSON as events and catalogues are read: the same line is the same record in both."""

from __future__ import annotations

import json
from typing import Any

from mealrec.sources.identifiers import of_number

CONSTANTS = {"NaN": None, "Infinity": "inf", "-Infinity": "-inf"}  # Python and others write them, JSON has none


def object_of(line: bytes) -> dict[str, Any] | None:
    """The object in a line, None where it holds none in UTF-8. Numbers stay the text they were written as, so that an
    identifier 1e3 is not 1000.0."""
    try:
        found = json.loads(line.decode(), parse_int=str, parse_float=of_number, parse_constant=CONSTANTS.get)
    except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
        return None
    return found if isinstance(found, dict) else None
