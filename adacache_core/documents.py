"""What reports, schedules and codebooks have in common as files: JSON that says what it is and of which version."""

from __future__ import annotations

import json
from typing import Any

from .errors import AdaCacheError

VERSION = 1


def head_of(kind: str) -> dict[str, Any]:
    """The first entries of a "report", "schedule" or "codebook"."""
    return {"format": f"adacache.{kind}", "version": VERSION}


def read(text: str, kind: str) -> dict[str, Any]:
    """The entries of a document of this kind.

    Raises:
        AdaCacheError: not JSON, another format, or another version.
    """
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise AdaCacheError(f"the {kind} is not JSON: {error}") from None
    expected = head_of(kind)["format"]
    if not isinstance(data, dict) or data.get("format") != expected:
        raise AdaCacheError(f"not a {kind}: its 'format' must be {expected!r}")
    if data.get("version") != VERSION:
        raise AdaCacheError(f"{kind} version {data.get('version')!r}; this AdaCache reads version {VERSION}")
    return data
