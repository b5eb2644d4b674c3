"""What every source says when its files are not right."""

from __future__ import annotations


class SourceError(ValueError):
    """A source's files are missing or not what they should be; the message names the file and what was expected."""
