"""Secrets stay out of what is said and kept: logs, messages, parameters, tags, commit metadata."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

BLOT = "***"
IN_URI = re.compile(r"(?<=://)[^/\s?#]*@")  # user:password@, up to the last @ of the authority
PASSWORD_IN_URI = re.compile(r"://[^/\s?#:@]*:[^/\s?#]+@|[?&](?:password|sslpassword|token|secret)=[^&\s]")
NAMED = re.compile(
    r"(?i)\b(password|passwd|sslpassword|secret|token|api_key|authorization)(\s*[=:]\s*)[^\s&'\",;)}\]]{3,}"
)
VARIABLE = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|API_KEY|AUTH_STRING|CREDENTIAL")
NO_SECRET = re.compile(r"(?:_PATH|_FILE|_DIR|_URI|_URL|_MODE|PARALLELISM)$")
SHORTEST = 6  # shorter values are words such as "token" or "false": blotting them out would hide the log


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Blots out user:password@ of URIs, password=... and the values of the environment's secrets (by variable name)."""
    for name, value in environment.items():
        if (
            len(value) >= SHORTEST
            and value in text
            and VARIABLE.search(name.upper())
            and not NO_SECRET.search(name.upper())
        ):
            text = text.replace(value, BLOT)
    return NAMED.sub(rf"\1\2{BLOT}", IN_URI.sub(f"{BLOT}@", text))


def holds_password(text: str) -> bool:
    """Whether a URI carries a password, in front of its host or in its query."""
    return "://" in text and PASSWORD_IN_URI.search(text) is not None
